"""The bench measures what it says: equal results of both sides, on years that repeat."""

import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ontime.dataset import split_by_time
from ontime.features import VIEWS
from ontime.tables import read_tables
from ontime.training import TrainConfig
from pipelines import bench_data, bench_models
from pipelines.bench import DATA_PARTS, JOINS, measured, ratio
from tests.conftest import World


def test_a_repeated_year_is_the_same_year_later(world: World, tmp_path: Path) -> None:
    bench_data.write_years(world.settings.tables_dir, tmp_path / "tables", times=2)
    tables = read_tables(tmp_path / "tables")
    once = world.tables["flights"]
    flights = tables["flights"]
    assert len(flights) == 2 * len(once) and flights.flight_id.is_unique
    later = flights[len(once) :].reset_index(drop=True)
    shift = later.scheduled_departure - once.scheduled_departure
    assert set(shift) == {bench_data.YEAR} and bench_data.YEAR % timedelta(weeks=1) == timedelta(0)
    assert later.arr_delay_min.equals(once.arr_delay_min)
    assert len(tables["aircraft"]) == len(world.tables["aircraft"]), "it has no dates"


@pytest.fixture(scope="module")
def two_years(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    var = tmp_path_factory.mktemp("bench")
    bench_data.write_years(world.settings.tables_dir, var / "tables", times=2)
    return var


def test_both_sides_build_the_same_rows_and_join_the_same_cells(two_years: Path) -> None:
    figures = {part: measured(part, 2, two_years) for part in DATA_PARTS}
    written = {v.name: two_years / "features" / f"{v.name}.parquet" for v in VIEWS}
    assert figures["features"]["rows"] == sum(len(pd.read_parquet(p)) for p in written.values())
    assert figures["plain features"]["rows"] == figures["features"]["rows"]
    assert len({figures[part]["digest"] for part in JOINS}) == 1
    assert {figures[part]["rows"] for part in JOINS} == {figures["join"]["rows"]}
    assert figures["join"]["rows"] > 80_000
    assert all(part["seconds"] > 0 and part["peak_gb"] > 0.05 for part in figures.values())


def test_the_digest_sees_a_single_cell_and_no_order() -> None:
    names = [name for view in VIEWS for name in view.columns]
    frame = pd.DataFrame(dict.fromkeys(names, 1.0), index=range(3)).assign(flight_id=list("abc"))
    other = frame.assign(**{names[0]: [1.0, 2.0, 1.0]})
    frames = (frame, frame[::-1], other)
    first, again, changed = (
        bench_data.joined(partial(pd.DataFrame, f), 3)["digest"] for f in frames
    )
    assert first == again != changed


def test_what_starts_the_measurements_is_small() -> None:
    """A process begins with the peak of memory of the one that started it."""
    large = "import pipelines.bench, sys; print({'duckdb', 'pandas', 'torch'} & {*sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", large], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "set()"


def test_the_ordinary_loop_learns_what_ours_does_and_both_are_scored(
    examples: pd.DataFrame, world: World
) -> None:
    split = split_by_time(examples, world.until)
    found, model, boosting = bench_models.training(split, TrainConfig(epochs=2, batch_size=512))
    losses = found["log_loss"]
    share = np.full(len(split.judge), split.fit.is_late.mean())
    base = bench_models.log_loss(split.judge, share)
    assert max(losses.values()) < base
    assert losses["network"] == pytest.approx(losses["ordinary"], abs=0.02)
    reached = found["seconds_to_lightgbm_quality"]
    assert reached is None or 0 < reached <= found["seconds"]
    scored = bench_models.scoring(model, boosting, split.judge[:2000])
    assert scored["rows"] == 2000 and scored["trees"] > 1


def test_a_ratio_says_whether_it_keeps_its_limit() -> None:
    assert ratio("join", 5.0, "DuckDB", 2.0, at_most=2.5)["kept"] is True
    assert ratio("join", 5.1, "DuckDB", 2.0, at_most=2.5)["kept"] is False
    assert ratio("loop", 9.9, "ordinary", 2.0, at_least=5)["kept"] is False
    assert ratio("never as good", None, "LightGBM", 2.0, at_most=1)["kept"] is False
    assert ratio("without a limit", 1.0, "DuckDB", 2.0) == {
        "what": "without a limit", "ours": 1.0, "to": "DuckDB", "beside": 2.0, "ratio": 0.5,
        "limit": None, "kept": None,
    }  # fmt: skip
