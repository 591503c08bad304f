"""Teachers fitted without whole days, and a student that predicts as they do."""

import numpy as np
import pandas as pd
import pytest

from ontime.evaluation.metrics import log_losses, scores
from ontime.models.distillation import Teachers, distill, fit_teachers
from ontime.models.trainer import TrainingError
from tests.unit.models.synthetic import SHORT, SMALL, SPEC, synthetic_day


@pytest.fixture(scope="module")
def teachers(train: pd.DataFrame) -> Teachers:
    with pytest.MonkeyPatch.context() as patch:  # of a wider scope than the fixture in conftest
        patch.setattr("ontime.models.distillation.local_day", synthetic_day)
        return fit_teachers(train, SPEC, members=2, seed=1)


def test_teachers_are_good_and_differ(teachers: Teachers, test: pd.DataFrame) -> None:
    members = teachers.predict_members(test)
    assert members.shape == (3_000, 2)
    assert (members[:, 0] != members[:, 1]).any()
    assert (teachers.predict(test) == members.mean(axis=1)).all()
    found = scores(test.label.to_numpy(), teachers.predict(test))
    assert found["auc"] > 0.8
    assert teachers.log_loss == pytest.approx(found["log_loss"], abs=0.03)


def test_the_out_of_fold_probabilities_have_the_cross_validated_log_loss(
    teachers: Teachers, train: pd.DataFrame
) -> None:
    labels = train.label.to_numpy(dtype=bool)
    cross_validated = log_losses(labels, teachers.out_of_fold).mean()
    assert cross_validated == pytest.approx(teachers.log_loss, abs=1e-3)
    assert log_losses(labels, teachers.predict(train)).mean() < cross_validated


def test_a_day_is_in_one_fold(train: pd.DataFrame) -> None:
    """All rows of a day have one label here, so a teacher that knew some would know the others."""
    rng = np.random.default_rng(0)
    label = (rng.random(40) < 0.3)[train.day]
    rows = train.assign(label=label, size=train.day.astype("float32"))
    found = fit_teachers(rows, SPEC, members=2, seed=1)
    base_rate = np.full(len(rows), label.mean())
    assert found.log_loss > 0.9 * log_losses(label, base_rate).mean()


def test_the_student_predicts_as_its_teachers(train: pd.DataFrame, test: pd.DataFrame) -> None:
    model, teachers, history = distill(train, SPEC, SMALL, "cpu")
    assert np.abs(model.predict(test) - teachers.predict(test)).mean() < 0.04
    assert len(history) == SMALL.epochs


def test_distillation_is_reproducible(train: pd.DataFrame, test: pd.DataFrame) -> None:
    first, second = (distill(train, SPEC, SHORT, "cpu")[0] for _ in range(2))
    assert (first.predict(test) == second.predict(test)).all()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("no labels", "every row must have a label"),
        ("missing label", "every row must have a label"),
        ("one class", "have one class"),
        ("one day", "there are 1 days"),
    ],
)
def test_rows_that_teachers_cannot_be_fitted_to_are_errors(
    broken: str, message: str, train: pd.DataFrame
) -> None:
    rows = {
        "no labels": train.drop(columns="label"),
        "missing label": train.assign(label=train.label.astype("object").where(train.index > 0)),
        "one class": train[train.label],
        "one day": train[train.day == 3],
    }[broken]
    with pytest.raises(TrainingError, match=message):
        fit_teachers(rows, SPEC, members=2, seed=1)
