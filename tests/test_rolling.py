"""The rolling origin: nothing judged was fitted, the table is whole, and the README can show it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.testing.utilities import prefect_test_harness

from ontime.dataset import split_at
from pipelines import readme
from pipelines.rolling import MODELS, SLICES, months, rolling
from tests.conftest import World


@pytest.fixture(scope="module")
def report(world: World) -> Iterator[dict[str, Any]]:
    with prefect_test_harness():
        yield rolling(2, 2)


def test_the_months_meet_and_the_last_one_ends_with_the_year() -> None:
    starts = list(months(5, 12))
    assert len(starts) == 8
    assert starts[0] == (datetime(2013, 5, 1, tzinfo=UTC), datetime(2013, 6, 1, tzinfo=UTC))
    assert starts[-1][1] == datetime(2014, 1, 1, tzinfo=UTC)
    assert [end for _, end in starts[:-1]] == [start for start, _ in starts[1:]]


def test_what_is_judged_was_not_known_to_any_model(examples: pd.DataFrame) -> None:
    ((start, end),) = months(2, 2)
    split = split_at(examples, start, end)
    for part in (split.fit, split.valid):
        assert (part.outcome_known_at <= start).all()
        assert not set(part.flight_id) & set(split.judge.flight_id)
    assert split.judge.event_timestamp.between(start, end, inclusive="left").all()


def test_every_model_is_judged_on_the_same_flights(
    report: dict[str, Any], examples: pd.DataFrame
) -> None:
    rows = pd.DataFrame(report["rows"])
    assert set(rows.month) == {"2013-02", "all"}
    assert rows.groupby("month").model.agg(tuple).map(set).map(set(MODELS).__eq__).all()
    ((start, end),) = months(2, 2)
    assert set(rows.n) == {float(len(split_at(examples, start, end).judge))}
    others = rows[rows.model != "network"]
    assert (others.low <= others.difference).all() and (others.difference <= others.high).all()
    # The ECE of a sample is too high by its noise, so that it may lie above its interval.
    assert (rows.ece_low <= rows.ece).all() and (rows.ece_low <= rows.ece_high).all()
    by_model = rows[rows.month == "all"].set_index("model")
    assert by_model.loc["network", "auc"] > by_model.loc["base_rate", "auc"] + 0.1
    assert {row["slice"] for row in report["slices"]} <= set(SLICES)


def test_the_readme_shows_the_table_whole(report: dict[str, Any], world: World) -> None:
    shown = readme.quality(report)
    assert all(f"| {model} |" in shown for model in MODELS)
    assert "| 2013-02 | " in shown
    assert (world.settings.reports_dir / "calibration.png").stat().st_size > 10_000


def test_the_readme_needs_every_report_and_its_marks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"demo\.json"):
        readme.write(tmp_path / "README.md", tmp_path, tmp_path)
