"""The benchmark compares equal results of both sides, on a source that is repeated."""

import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import benchmark_shards
from experiments.benchmark import (
    DATA_PARTS,
    JOINS,
    TRAININGS,
    ratio,
    ratios,
    run_part,
)
from experiments.benchmark_data import PARTS, REPETITION, joined, repeat_tables
from experiments.benchmark_models import log_loss, retraining, scoring, training
from ontime.data.splits import split_by_time
from ontime.data.tables import read_tables
from ontime.models.trainer import TrainConfig
from ontime.problem import DEMO_START, SOURCE_TABLES, VIEWS
from tests.conftest import Dataset


def test_repeated_rows_are_the_same_rows_later(dataset: Dataset, tmp_path: Path) -> None:
    repeat_tables(dataset.settings, tmp_path / "tables", years=2)
    tables = read_tables(tmp_path / "tables", SOURCE_TABLES)
    assert REPETITION % timedelta(weeks=1) == timedelta(0), "weekdays stay the same"
    for table in SOURCE_TABLES:
        once, twice = dataset.tables[table.name], tables[table.name]
        timestamps = list(once.select_dtypes("datetimetz"))
        assert not twice.duplicated(list(table.keys)).any()
        if not timestamps:
            assert len(twice) == len(once)
            continue
        later = twice[len(once) :].reset_index(drop=True)
        shift = later[timestamps[0]] - once[timestamps[0]]
        assert set(shift) == {REPETITION}
        values = [name for name in once if name not in (*timestamps, *table.keys)]
        pd.testing.assert_frame_equal(later[values], once[values])


def test_both_sides_build_the_same_rows_and_join_the_same_cells(
    dataset: Dataset, tmp_path: Path
) -> None:
    arguments = ("tables", "--times", "1", "--into", str(tmp_path / "tables"))
    run_part("benchmark_data", dataset.settings.data_dir, *arguments)
    settings = dataset.settings.model_copy(update={"data_dir": tmp_path})
    results = {name: PARTS[name](settings) for name in DATA_PARTS}
    written = [tmp_path / "features" / f"{view.name}.parquet" for view in VIEWS]
    assert results["features"]["rows"] == sum(len(pd.read_parquet(path)) for path in written)
    assert results["plain features"]["rows"] == results["features"]["rows"]
    assert len({results[part]["digest"] for part in JOINS}) == 1
    assert {results[part]["rows"] for part in JOINS} == {dataset.requests.eligible.sum()}
    assert all(part["seconds"] > 0 and part["peak_gb"] > 0.05 for part in results.values())


def test_training_from_shards_reaches_the_loss_of_training_in_memory(
    dataset: Dataset, examples: pd.DataFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    written = benchmark_shards.write(folder, times=1)
    assert written["rows"] == int((examples.outcome_known_at <= DEMO_START).sum())
    memory = benchmark_shards.train("memory", folder)
    shards = run_part("benchmark_shards", dataset.settings.data_dir, "shards", str(folder))
    assert memory["train_loss"] == pytest.approx(shards["train_loss"], abs=0.01)
    assert min(memory["rows_per_second"], shards["rows_per_second"]) > 0


def test_the_digest_depends_on_every_cell_and_not_on_the_order() -> None:
    names = [name for view in VIEWS for name in view.columns]
    frame = pd.DataFrame(dict.fromkeys(names, 1.0), index=range(3)).assign(instance_id=list("abc"))
    other = frame.assign(**{names[0]: [1.0, 2.0, 1.0]})
    frames = (frame, frame[::-1], other)
    first, again, changed = (joined(partial(pd.DataFrame, f), 3)["digest"] for f in frames)
    assert first == again != changed


def test_the_process_that_starts_the_measurements_is_small() -> None:
    """A process starts with the peak memory of its parent."""
    large = "{'duckdb', 'pandas', 'torch'}"
    code = f"import experiments.benchmark, sys; print({large} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


def test_the_ordinary_loop_reaches_the_trainers_loss_and_both_are_scored(
    examples: pd.DataFrame, dataset: Dataset
) -> None:
    split = split_by_time(examples, dataset.until)
    batch_size = max(32, len(split.train_and_validation) // 80)  # 80 steps per epoch
    results, model, boosting = training(split, TrainConfig(epochs=2, batch_size=batch_size))
    losses = results["log_loss"]
    base_rate = np.full(len(split.test), split.train.label.mean())
    assert max(losses.values()) < log_loss(split.test, base_rate)
    assert losses["network"] == pytest.approx(losses["ordinary"], abs=0.02)
    reached = results["seconds_to_lightgbm_quality"]
    assert (reached is None) == (losses["network"] > losses["lightgbm"])
    assert reached is None or results["teachers_seconds"] < reached <= results["seconds"]
    scored = scoring(model, boosting, split.test[:2000])
    assert scored["rows"] == len(split.test[:2000]) and scored["trees"] > 1
    retrained = retraining(split.train, TrainConfig(epochs=1, batch_size=batch_size))
    assert retrained["rows"] == len(split.train) and retrained["seconds"] > 0
    one, hundred = (scored["forward_ms"][n] for n in ("1", "100"))
    assert min(one, hundred) > 0
    data = {part: {"seconds": 1.0, "peak_gb": 1.0} for part in DATA_PARTS}
    trainings = {part: {"rows_per_second": 2.0, "peak_gb": 1.0} for part in TRAININGS}
    report = {"training": results, "retraining": retrained, "scoring": scored}
    measured = {"data": [{"times": 1} | data], "shards": [{"times": 1} | trainings]}
    rows = {row["what"]: row for row in ratios(report | measured)}
    assert rows["training from shards, 1 x, rows/s"]["ratio"] == 1
    assert rows[f"retrain on {len(split.train):,} rows, s"]["ours"] == retrained["seconds"]
    assert [rows[f"forward pass, rows: {n}, ms"]["ours"] for n in (1, 100)] == [one, hundred]


def test_a_ratio_says_whether_it_keeps_its_limit() -> None:
    assert ratio("join", 5.0, "DuckDB", 2.0, at_most=2.5)["kept"] is True
    assert ratio("join", 5.1, "DuckDB", 2.0, at_most=2.5)["kept"] is False
    assert ratio("loop", 9.9, "ordinary", 2.0, at_least=5)["kept"] is False
    assert ratio("never as good", None, "LightGBM", 2.0, at_most=1)["kept"] is False
    assert ratio("without a limit", 1.0, "DuckDB", 2.0) == {
        "what": "without a limit", "ours": 1.0, "to": "DuckDB", "beside": 2.0, "ratio": 0.5,
        "limit": None, "kept": None,
    }  # fmt: skip
