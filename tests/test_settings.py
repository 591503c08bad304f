"""Settings: what `.env.example` says is what an empty environment gives, and mistakes stop it."""

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from ontime.settings import ROOT, Settings

EXAMPLE = ROOT / ".env.example"
ASSIGNMENT = re.compile(r"^(ONTIME_[A-Z0-9_]+)=(.*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _at_the_root_with_nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith("ONTIME_")]:
        monkeypatch.delenv(name)


def read(env_file: Path | None) -> Settings:
    return Settings(_env_file=env_file)


def test_the_example_lists_every_setting_once_in_the_order_of_the_class() -> None:
    listed = [name for name, _ in ASSIGNMENT.findall(EXAMPLE.read_text())]
    assert listed == [f"ONTIME_{name.upper()}" for name in Settings.model_fields]


def test_the_example_copied_as_it_is_changes_nothing() -> None:
    assert read(EXAMPLE).model_dump() == read(None).model_dump()


def test_every_setting_of_the_example_is_explained() -> None:
    blocks = EXAMPLE.read_text().strip().split("\n\n")
    assert [block for block in blocks if not block.startswith("# ")] == []


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.env"
    file.write_text("ONTIME_API_URL=http://file:1\nONTIME_REDIS_URL=file:2\n")
    monkeypatch.setenv("ONTIME_API_URL", "http://environment:3")
    settings = read(file)
    assert (settings.api_url, settings.redis_url) == ("http://environment:3", "file:2")


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text("ONTIME_REDDIS_URL=localhost:6379\n")
    with pytest.raises(ValidationError, match="reddis_url"):
        read(file)


def test_the_embedded_parts_lie_below_var(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, var=tmp_path)
    places = [settings.mlflow_url, settings.log_url, *map(str, (settings.tables_dir,))]
    assert [place for place in places if str(tmp_path.resolve()) not in place] == []
