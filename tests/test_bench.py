"""The bench measures what it says: equal results of both sides, on years that repeat."""

from datetime import timedelta
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from ontime.features import VIEWS
from ontime.tables import read_tables
from pipelines import bench_data
from pipelines.bench import measured
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
    parts = ("features", "plain features", "join", "plain join")
    figures = {part: measured(part, 2, two_years) for part in parts}
    written = {v.name: two_years / "features" / f"{v.name}.parquet" for v in VIEWS}
    assert figures["features"]["rows"] == sum(len(pd.read_parquet(p)) for p in written.values())
    assert figures["plain features"]["rows"] == figures["features"]["rows"]
    assert figures["join"]["digest"] == figures["plain join"]["digest"]
    assert figures["join"]["rows"] == figures["plain join"]["rows"] > 80_000
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
