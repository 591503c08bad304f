"""The slice table names the value in which a model is not calibrated."""

import numpy as np
import pandas as pd
import pytest

from ontime.evaluation.metrics import EvaluationError
from ontime.evaluation.slices import slice_table
from tests.unit.evaluation.test_metrics import calibrated


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    module = "ontime.evaluation.slices"
    monkeypatch.setattr(f"{module}.SLICES", {"kind": lambda rows: rows["kind"].to_numpy(dtype=str)})
    monkeypatch.setattr(f"{module}.local_day", lambda rows: rows["day"].to_numpy("datetime64[D]"))
    day = pd.Timestamp("2001-04-30") + pd.to_timedelta(np.arange(6000) // 40, unit="D")
    return pd.DataFrame({"kind": np.where(np.arange(6000) % 3 == 0, "a", "b"), "day": day})


def test_a_slice_that_is_not_calibrated_has_a_bias_beyond_its_error(rows: pd.DataFrame) -> None:
    y, p = calibrated(6000)
    shifted = np.where(rows["kind"] == "a", np.clip(p + 0.1, 0, 1), p)
    table = slice_table(rows, y, shifted, ["kind"]).set_index("value")
    assert table.calibration_bias["a"] == pytest.approx(0.1, abs=0.03)
    assert table.calibration_bias["a"] > 3 * table.calibration_bias_error["a"]
    assert abs(table.calibration_bias["b"]) < 3 * table.calibration_bias_error["b"]
    assert table.n.sum() == 6000


def test_months_are_those_of_the_local_day_and_small_values_are_left_out(
    rows: pd.DataFrame,
) -> None:
    y, p = calibrated(6000)
    table = slice_table(rows, y, p, ["month"])  # 40 rows are in April
    assert table.value.tolist() == ["2001-05", "2001-06", "2001-07", "2001-08", "2001-09"]


def test_labels_of_other_rows_are_an_error(rows: pd.DataFrame) -> None:
    with pytest.raises(EvaluationError, match="5999 for 6000 rows"):
        slice_table(rows, *calibrated(5999), ["kind"])
