"""What a run is identified by: every metric point, and a digest of its rows."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from ontime.models.serialization import TrainedModel
from ontime.registry.run_logger import (
    MAX_DESCRIPTION,
    TrainingResult,
    data_digest,
    describe,
    metric_points,
)
from tests.unit.models.conftest import model as model  # the fixture


def test_metrics_have_step_zero_and_curves_one_step_per_epoch(model: TrainedModel) -> None:
    result = TrainingResult(
        as_of=datetime(2001, 5, 1, tzinfo=UTC),
        model=model,
        parameters={},
        curves={"train_loss": [0.5, 0.4]},
        metrics={"auc": 0.7},
        tables={},
        test_predictions=pd.DataFrame(),
        figures={},
        model_card="",
        data=pd.DataFrame(),
    )
    assert metric_points(result) == [
        ("auc", 0.7, 0),
        ("epoch_train_loss", 0.5, 1),
        ("epoch_train_loss", 0.4, 2),
    ]


@pytest.mark.parametrize("change", ["a value", "a name", "the order of rows"])
def test_the_digest_changes_with_values_names_and_order(change: str) -> None:
    rows = pd.DataFrame({"a": np.arange(20_000), "b": "x"})
    changed = {
        "a value": rows.assign(a=rows.a.where(rows.a < 19_999, 0)),
        "a name": rows.rename(columns={"b": "c"}),
        "the order of rows": rows[::-1],
    }[change]
    assert len(data_digest(rows)) == 32
    assert data_digest(rows) == data_digest(rows.copy()) != data_digest(changed)


def test_a_description_is_cut_at_a_line_and_says_where_the_rest_is() -> None:
    short = "# Card\n\nA line.\n"
    assert describe(short) == short

    card = "\n".join(f"| row {i} | {i / 7:.4f} |" for i in range(400))
    found = describe(card)

    *lines, empty, rest = found.split("\n")
    assert MAX_DESCRIPTION - 40 < len(found) <= MAX_DESCRIPTION < len(card)
    assert lines == card.split("\n")[: len(lines)]
    assert (empty, rest) == ("", "The rest is in model_card.md, an artifact of the run.")
