"""The importances add up to the log-loss reduction, and the cause has the largest."""

import numpy as np
import pytest

from ontime.evaluation.importance import group_importance
from ontime.evaluation.metrics import log_losses
from ontime.models.trainer import fit
from tests.unit.models.synthetic import SMALL, SPEC, synthetic_rows


@pytest.mark.slow
def test_importances_add_up_and_rank_the_causes() -> None:
    train, rows = synthetic_rows(6000), synthetic_rows(2000, seed=5)
    targets = np.repeat(train.chance.to_numpy()[:, None], 2, axis=1)
    model, _ = fit(train, targets, SPEC, SMALL, "cpu")
    table = group_importance(model, rows)

    missing = rows.assign(kind="", site="", **dict.fromkeys(SPEC.numeric, np.float32("nan")))
    labels = rows.label.to_numpy()
    reduction = log_losses(labels, model.predict(missing)) - log_losses(labels, model.predict(rows))
    assert table.log_loss_reduction.sum() == pytest.approx(reduction.mean(), abs=1e-6)
    assert table.group[0] == "state"  # the label depends on age most
    by_group = table.set_index("group").log_loss_reduction
    assert abs(by_group["site"]) < 0.005 < by_group["kind"]  # and on site not at all
