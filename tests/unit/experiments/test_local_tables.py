"""Commands that change copies of the tables, or measure their files, reject tables on S3."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from experiments import benchmark, feature_costs, growth, spark_check
from simulation.drills import data_folder

URL = "s3://bucket/tables"


@pytest.fixture(autouse=True)
def _tables_on_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONTIME_TABLES_URL", URL)
    monkeypatch.setattr(sys, "argv", ["command"])


@pytest.mark.parametrize(
    ("module", "command"),
    [
        (benchmark, "bench"),
        (feature_costs, "costs"),
        (growth, "growth"),
        (spark_check, "spark-check"),
    ],
)
def test_an_experiment_on_files_rejects_tables_on_s3(module: ModuleType, command: str) -> None:
    with pytest.raises(ValueError, match=f"make {command} needs its tables in .* {URL}: unset it"):
        module.main()


def test_a_drill_rejects_tables_on_s3(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make drills needs its tables"), data_folder(tmp_path):
        pytest.fail("an incident would be written to S3")
