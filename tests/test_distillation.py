"""Teachers that leave out whole days, and a student that answers as they do."""

from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GroupKFold

from ontime.baselines import LIGHTGBM_ROUNDS, lightgbm_table
from ontime.distillation import (
    TEACHER_PARAMETERS,
    TEACHER_PATIENCE,
    Teachers,
    distil,
    fit_teachers,
)
from ontime.evaluation import local_days, log_losses, scores
from ontime.training import TrainingError
from tests.test_training import SMALL, SPEC
from tests.test_training import train as train  # the fixtures
from tests.test_training import unseen as unseen


@pytest.fixture(scope="module")
def teachers(train: pd.DataFrame) -> Teachers:
    return fit_teachers(train, SPEC, members=2, seed=1)


def test_teachers_learn_and_differ(teachers: Teachers, unseen: pd.DataFrame) -> None:
    members = teachers.predict_members(unseen)
    assert members.shape == (3_000, 2) and (members[:, 0] != members[:, 1]).any()
    assert (teachers.predict(unseen) == members.mean(axis=1)).all()
    found = scores(unseen.is_late.to_numpy(), teachers.predict(unseen))
    assert found["auc"] > 0.8
    assert teachers.log_loss == pytest.approx(found["log_loss"], abs=0.03), "told on days left out"


def test_a_day_is_known_to_a_teacher_whole_or_not_at_all(train: pd.DataFrame) -> None:
    """Days whose flights are all late or all on time: who saw one would answer the others of it."""
    days = local_days(train)
    fate = dict(zip(days.unique(), np.random.default_rng(0).random(days.nunique()), strict=True))
    number = days.map({day: i for i, day in enumerate(fate)}).astype("float32")
    fated = train.assign(is_late=days.map(fate) < 0.3, wind=number)
    found = fit_teachers(fated, SPEC, members=2, seed=1)
    share = fated.is_late.mean()
    knows_nothing = log_losses(fated.is_late.to_numpy(), np.full(len(fated), share)).mean()
    assert found.log_loss > 0.9 * knows_nothing


def test_growing_side_by_side_is_cross_validation(train: pd.DataFrame) -> None:
    """Folds, trees and the rule of stopping are those of LightGBM's own, one after the other."""
    rows = train[:4_000]
    found = fit_teachers(rows, SPEC, members=3, seed=1)
    late = rows.is_late.to_numpy(dtype=bool)
    table = lightgbm_table(rows, SPEC, found.vocabularies)
    theirs: dict[str, Any] = lightgbm.cv(
        TEACHER_PARAMETERS,
        lightgbm.Dataset(table, label=late),
        num_boost_round=LIGHTGBM_ROUNDS,
        folds=GroupKFold(3, shuffle=True, random_state=1).split(table, late, local_days(rows)),
        callbacks=[lightgbm.early_stopping(TEACHER_PATIENCE, verbose=False)],
    )
    curve = theirs["valid binary_logloss-mean"]
    assert 1 < found.rounds == len(curve)
    assert found.log_loss == pytest.approx(curve[-1], abs=1e-12)


def test_the_student_answers_as_its_teachers(train: pd.DataFrame, unseen: pd.DataFrame) -> None:
    model, teachers, history = distil(train, unseen, SPEC, SMALL, "cpu")
    assert np.abs(model.predict(unseen) - teachers.predict(unseen)).mean() < 0.03
    assert len(history) == SMALL.epochs
    again, _, _ = distil(train, unseen, SPEC, SMALL, "cpu")
    assert (again.predict(unseen) == model.predict(unseen)).all()


@pytest.mark.parametrize("broken", ["no labels", "one kind", "one day"])
def test_rows_that_cannot_teach_are_refused(broken: str, train: pd.DataFrame) -> None:
    rows = {
        "no labels": train.drop(columns="is_late"),
        "one kind": train[train.is_late],
        "one day": train[local_days(train) == local_days(train).iloc[0]],
    }[broken]
    with pytest.raises(TrainingError):
        fit_teachers(rows, SPEC, members=2, seed=1)
