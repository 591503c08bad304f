"""Drift of synthetic columns: changed distributions are found, unusable columns are named."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitoring.drift import DriftError, drift_report
from ontime.features.spec import FeatureSpec
from ontime.problem import MIN_DRIFT_INSTANCES
from ontime.settings import ROOT

pytestmark = pytest.mark.slow  # Evidently's import

SPEC = FeatureSpec(
    numeric=("same", "moved", "all_nan", "constant", "stuck"), categorical=("kind", "place")
)


def frame(rows: int, seed: int, moved: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {
        "same": rng.normal(0, 1, rows),
        "moved": rng.normal(moved, 1, rows),
        "all_nan": np.full(rows, np.nan),
        "constant": np.ones(rows),
        "stuck": rng.normal(0, 1, rows),
        "probability": rng.beta(2, 5 - 2 * moved, rows),
    }
    numbers = pd.DataFrame(columns).astype("float32")
    return numbers.assign(
        kind=rng.choice(["a", "b", "c"], rows, p=[0.5, 0.3, 0.2]),
        place=rng.choice(["x", "y", "z"], rows, p=[0.8 - 0.6 * moved, 0.1 + 0.6 * moved, 0.1]),
    )


REFERENCE = frame(6000, seed=1)
CURRENT = frame(5200, seed=2, moved=1.0).assign(stuck=np.float32(0.0))


def test_changed_distributions_drift_and_equal_ones_do_not() -> None:
    found = drift_report(REFERENCE, CURRENT, SPEC)
    drifted = {name for name, column in found.columns.items() if column.drifted}
    assert drifted == {"moved", "place", "stuck"}
    assert found.share_drifted == pytest.approx(3 / 5)
    assert found.prediction.drifted
    assert found.columns["moved"].score == pytest.approx(1.0, abs=0.1)  # one standard deviation
    scores = [column.score for column in found.columns.values()]
    assert scores == sorted(scores, reverse=True)


def test_two_samples_of_one_distribution_do_not_drift() -> None:
    found = drift_report(REFERENCE, frame(max(500, MIN_DRIFT_INSTANCES), seed=3), SPEC)
    assert found.share_drifted == 0 and not found.prediction.drifted


def test_methods_are_pinned_by_the_kind_of_column() -> None:
    found = drift_report(REFERENCE, CURRENT, SPEC)
    assert {name: column.method for name, column in found.columns.items()} == {
        "same": "wasserstein",
        "moved": "wasserstein",
        "stuck": "wasserstein",
        "kind": "jensenshannon",
        "place": "jensenshannon",
    }
    assert found.prediction.method == "jensenshannon"
    assert {column.threshold for column in found.columns.values()} == {0.1}


def test_columns_that_cannot_be_compared_are_named_with_the_reason() -> None:
    found = drift_report(REFERENCE, CURRENT.assign(same=np.nan), SPEC)
    assert found.left_out == {
        "same": "all missing in current rows",
        "all_nan": "all missing in the reference",
        "constant": "constant in the reference",
    }


def test_a_third_of_missing_values_shows_beside_the_score() -> None:
    third = CURRENT.same.where(np.arange(len(CURRENT)) % 3 > 0)
    column = drift_report(REFERENCE, CURRENT.assign(same=third), SPEC).columns["same"]
    assert not column.drifted  # Evidently drops missing values
    assert column.missing_reference == 0 and column.missing_current == pytest.approx(
        1 / 3, abs=0.01
    )


def test_both_sides_are_sampled_to_the_same_size_and_the_same_rows_each_time() -> None:
    first, again = (drift_report(REFERENCE, CURRENT, SPEC) for _ in range(2))
    assert first == again
    assert (first.rows_reference, first.rows_current) == (6000, 5200)
    assert first.sampled_reference == first.sampled_current == 5000


def test_the_html_report_does_not_change_the_scores(tmp_path: Path) -> None:
    page = tmp_path / "reports" / "drift.html"
    assert drift_report(REFERENCE, CURRENT, SPEC, page) == drift_report(REFERENCE, CURRENT, SPEC)
    assert page.stat().st_size > 100_000 and "moved" in page.read_text()


def test_too_few_rows_are_an_error() -> None:
    with pytest.raises(DriftError, match=f"at least {MIN_DRIFT_INSTANCES} current rows, got 1:"):
        drift_report(REFERENCE, CURRENT.head(1), SPEC)
    with pytest.raises(DriftError, match="reference rows, got 0"):
        drift_report(REFERENCE.head(0), CURRENT, SPEC)


def test_a_frame_without_a_feature_is_an_error() -> None:
    with pytest.raises(DriftError, match=r"current must have every input.*missing: \['moved'\]"):
        drift_report(REFERENCE, CURRENT.drop(columns="moved"), SPEC)


def test_no_comparable_input_is_an_error() -> None:
    spec = FeatureSpec(numeric=("all_nan",), categorical=())
    with pytest.raises(DriftError, match="at least one input"):
        drift_report(REFERENCE, CURRENT, spec)


def test_the_result_is_json() -> None:
    json.dumps(asdict(drift_report(REFERENCE, CURRENT, SPEC)), allow_nan=False)


def test_importing_monitoring_does_not_import_evidently() -> None:
    """The import takes 4 s and 290 MB."""
    code = "import monitoring.retrain_policy, sys; sys.exit('evidently' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
