"""The measurement of growth: its sizes, its time limit, and the page that is written from it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments import growth
from experiments.benchmark_data import REPETITION, repeat_tables
from experiments.growth import BEGIN, END, SHAPES, has_features, prepare, write_page
from experiments.spark_check import ENGINES, measure
from ontime.data.tables import read_tables
from ontime.problem import ENTITY_KEYS, SOURCE_TABLES, VIEWS
from tests.conftest import Dataset

TEXTS = [name for name, dtype in ENTITY_KEYS.items() if dtype == "string"]
CELL = {"part": "join", "engine": "duckdb", "times": 1, "rows": 2_000, "ended": 0}


def test_every_size_is_as_many_places_and_years() -> None:
    assert {times: places * years for times, (places, years) in SHAPES.items()} == {
        times: times for times in SHAPES
    }


def test_another_place_has_the_same_rows_with_keys_of_its_own(
    dataset: Dataset, tmp_path: Path
) -> None:
    repeat_tables(dataset.settings, tmp_path / "tables", years=2, places=3)
    tables = read_tables(tmp_path / "tables", SOURCE_TABLES)
    for table in SOURCE_TABLES:
        once, often = dataset.tables[table.name], tables[table.name]
        years = 2 if len(once.select_dtypes("datetimetz").columns) else 1
        assert len(often) == len(once) * 3 * years
        assert not often.duplicated(list(table.keys)).any()
        last = often[-len(once) :].reset_index(drop=True)
        for name in once.columns:
            if name in TEXTS:
                assert last[name].dropna().str.removesuffix("+2").equals(once[name].dropna())
            elif once[name].dtype.kind == "M":
                shift = (years - 1) * REPETITION
                assert (last[name] - shift).equals(once[name])
            elif name not in table.keys:
                pd.testing.assert_series_equal(last[name], once[name])


def test_repeated_requests_meet_the_keys_of_repeated_tables(
    dataset: Dataset, tmp_path: Path
) -> None:
    for engine in ENGINES:
        (tmp_path / engine).mkdir()
    prepare(dataset.settings, tmp_path, places=2, years=1)
    requests = pd.read_parquet(tmp_path / ENGINES[0] / "entity_rows.parquet")
    assert len(requests) == 2 * dataset.requests.eligible.sum()
    assert requests.instance_id.is_unique
    tables = read_tables(tmp_path / ENGINES[1] / "tables", SOURCE_TABLES)
    keys = {key: set().union(*(t[key] for t in tables.values() if key in t)) for key in TEXTS}
    assert all(set(requests[key]) <= keys[key] for key in TEXTS)


def test_an_engine_without_features_joins_the_equal_ones_of_the_other(tmp_path: Path) -> None:
    ours, theirs = (tmp_path / engine for engine in ENGINES)
    ours.mkdir()
    (theirs / "features").mkdir(parents=True)
    assert not has_features(ours) and not has_features(theirs)
    (theirs / "features").mkdir(parents=True, exist_ok=True)
    for view in VIEWS:
        (theirs / "features" / f"{view.name}.parquet").touch()
    assert has_features(ours) and (ours / "features").resolve() == theirs / "features"


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    measured = measure("features", "duckdb", tmp_path, limit_s=0.01)
    assert measured["ended"] == "stopped" and measured["seconds"] < 60
    assert measure("features", "duckdb", tmp_path)["ended"] == 1  # there are no tables


def test_an_engine_that_was_stopped_is_not_measured_on_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: Dataset
) -> None:
    asked = []

    def fake(part: str, engine: str, folder: Path, limit_s: float) -> dict[str, Any]:
        asked.append((part, engine))
        ended = "stopped" if engine == "duckdb" else 0
        return {"seconds": 2.0, "cpu_seconds": 3.0, "peak_gb": 1.0, "rows": 1, "ended": ended}

    monkeypatch.setattr(growth, "measure", fake)
    monkeypatch.setattr(growth, "prepare", lambda *_: None)
    monkeypatch.setattr(growth, "has_features", lambda _: True)
    settings = dataset.settings.model_copy(update={"data_dir": tmp_path})
    cells = list(growth.growth(settings, [3, 1], limit_s=1))
    assert [cell["times"] for cell in cells] == [1] * 4 + [3] * 4
    assert asked.count(("join", "duckdb")) == 1 and asked.count(("join", "spark")) == 2
    assert [cell["ended"] for cell in cells[4:]] == ["not tried", 0] * 2
    fewer = list(growth.growth(settings, [1, 3], limit_s=1, spark_features=1))
    assert [cell["ended"] for cell in fewer[4:]] == ["not tried", "not tried", "not tried", 0]


def test_sizes_that_are_not_measured_again_stay_in_the_report() -> None:
    report = {"repeated": {"cells": [CELL, CELL | {"times": 3}, CELL | {"times": 10}]}}
    assert growth.other_sizes(report, [3, 30]) == [CELL, CELL | {"times": 10}]
    assert growth.other_sizes({}, [1]) == []


def test_the_page_is_written_from_the_report(tmp_path: Path) -> None:
    (tmp_path / "docs" / "images").mkdir(parents=True)
    page = tmp_path / "docs" / "scale.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    about = {"cores": 2, "memory_gb": 23.4, "load": 1.2, "measured_at": "2024-05-01"}
    cells = [
        CELL | {"seconds": 4.0, "cpu_seconds": 6.0, "peak_gb": 1.5},
        CELL
        | {"times": 3, "ended": "stopped", "seconds": 60.0, "cpu_seconds": 90.0, "peak_gb": 9.0},
        CELL | {"times": 10, "ended": "not tried"},
    ]
    cells[2].pop("rows")
    cells += [cells[0] | {"engine": "spark", "times": 3, "cpu_seconds": 14.4}]
    report = {"machine": about | {"spark_submit": "local[2]"}, "limit_s": 60.0, "cells": cells}
    write_page(json.loads(json.dumps({"repeated": report})), tmp_path)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| join | duckdb | 1 | 2,000 | 4 | 6 | 3000.0 | 1.5 | finished |" in text
    assert "| join | duckdb | 3 | 2,000 | 60 | 90 |  | 9.0 | stopped |" in text
    assert "| join | duckdb | 10 |  |  |  |  |  | not tried |" in text
    assert "(160 cores): join, from 3 x: 5.0 hours" in text  # 14.4 s / 2,000 * 200e6 / 80 / 3600
    assert (tmp_path / "docs" / "images" / "growth.png").stat().st_size > 5_000

    page.write_text("no marks")
    with pytest.raises(ValueError, match="must have each of the marks"):
        write_page({}, tmp_path)
