"""Five boosted forests teach, one network learns: what is served is the network.

    model, teachers, history = distil(train, unseen, FEATURE_SPEC, TrainConfig())

Trees are better at learning this table from labels; a network can learn what they learnt, when it
is told their answers instead of the labels (Bucilua et al., 2006; Hinton et al., 2015). Then it is
one small file of matrices, fast, differentiable, and calibrated with any group of inputs missing.

Notable decisions
- Each teacher never sees a fifth of the days, and all stop when they no longer get better, on
  average, at the days that they do not see. So no week is kept back to stop early on, and the
  newest days, which say most about the next ones, are learnt from.
- Each teacher has its own output of the network. Their spread is the uncertainty: how much the
  answer depends on which days one happened to learn from.
- Whole days are left out, because flights of one day share its weather and its queues.
"""

from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from ontime.baselines import LIGHTGBM_PARAMETERS, LIGHTGBM_ROUNDS, lightgbm_table
from ontime.evaluation import local_days
from ontime.model import FeatureSpec, TrainedModel, build_vocabularies
from ontime.processes import from_first
from ontime.training import EpochRecord, TrainConfig, TrainingError, check_labels, fit

# Three times the step and a quarter of the bins: a third of the time, for .0006 nats.
TEACHER_PARAMETERS = LIGHTGBM_PARAMETERS | {"learning_rate": 0.1, "max_bin": 63}
TEACHER_PATIENCE = 20


@dataclass(frozen=True)
class Teachers:
    """`log_loss` is their mean over days that they did not see; `rounds` the trees of each."""

    spec: FeatureSpec
    vocabularies: dict[str, list[str]]
    boosters: list[lightgbm.Booster]
    rounds: int
    log_loss: float

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Their mean probability, float64 [n]."""
        return self.predict_members(frame).mean(axis=1)

    def predict_members(self, frame: pd.DataFrame) -> np.ndarray:
        """Each teacher's probability, float64 [n, k]."""
        table = lightgbm_table(frame, self.spec, self.vocabularies)
        answers = [
            np.asarray(booster.predict(table, num_iteration=self.rounds))
            for booster in self.boosters
        ]
        return np.stack(answers, axis=1)


def fit_teachers(train: pd.DataFrame, spec: FeatureSpec, members: int, seed: int) -> Teachers:
    """Cross-validation by day, of which the models are kept.

    Raises:
        TrainingError: if the labels cannot teach, or there are fewer days than teachers.
    """
    check_labels(train)
    days = local_days(train)
    if days.nunique() < members:
        raise TrainingError(
            f"{members} teachers leave out different days; these are {days.nunique()} days"
        )
    vocabularies = build_vocabularies(train, spec)
    table, late = lightgbm_table(train, spec, vocabularies), train["is_late"].to_numpy(dtype=bool)
    folds = GroupKFold(members, shuffle=True, random_state=seed).split(table, late, days)
    found: dict[str, Any] = lightgbm.cv(
        TEACHER_PARAMETERS,
        lightgbm.Dataset(table, label=late),
        num_boost_round=LIGHTGBM_ROUNDS,
        folds=folds,
        callbacks=[lightgbm.early_stopping(TEACHER_PATIENCE, verbose=False)],
        return_cvbooster=True,
    )
    curve = found["valid binary_logloss-mean"]
    boosters = found["cvbooster"].boosters
    return Teachers(spec, vocabularies, boosters, len(curve), float(curve[-1]))


def distil(
    train: pd.DataFrame,
    unseen: pd.DataFrame,
    spec: FeatureSpec,
    config: TrainConfig,
    device: str = "auto",
) -> tuple[TrainedModel, Teachers, list[EpochRecord]]:
    """Teachers and their student. Of several processes the first one teaches."""

    def teach() -> tuple[Teachers, np.ndarray]:
        teachers = fit_teachers(train, spec, config.network.members, config.seed)
        return teachers, teachers.predict_members(train)

    teachers, targets = from_first(teach)
    model, history = fit(train, targets, unseen, spec, config, device)
    return model, teachers, history
