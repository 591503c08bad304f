"""Knowledge distillation: gradient-boosted trees are the teachers, the network is the student.

    model, teachers, history = distill(train, FEATURE_SPEC, TrainConfig())

On this kind of table trees fit noisy labels better than a network does; a network fitted to the
trees' probabilities instead of the labels reaches their quality (Bucilua et al., 2006; Hinton et
al., 2015), as one small file of matrices, differentiable, and calibrated with inputs missing.

- Folds: each teacher is fitted without one of the day-grouped folds, and all stop when their mean
  log-loss on the left-out days no longer falls. No week is held out for early stopping, so the
  newest days, which are most like the next ones, are trained on.
- Groups: whole days, because rows of one day are correlated.
- Heads: each teacher's probabilities are the soft targets of one output head of the network, with
  a share of the labels (`soft_targets`). The heads' spread is the uncertainty: how much the
  prediction depends on the days trained on.
- Sequences: trees read none. What the events say beyond the table comes from the labels.
"""

from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from ontime.data.memory import release_freed_memory
from ontime.features.spec import FeatureSpec
from ontime.models.baselines import LIGHTGBM_PARAMETERS, LIGHTGBM_ROUNDS, lightgbm_table
from ontime.models.distributed import broadcast_from_rank0
from ontime.models.inputs import build_vocabularies
from ontime.models.serialization import TrainedModel
from ontime.models.trainer import EpochRecord, TrainConfig, TrainingError, check_labels, fit
from ontime.problem import local_day

# Five times the learning rate and a quarter of the bins: the student smooths away what is lost.
TEACHER_PARAMETERS = LIGHTGBM_PARAMETERS | {"learning_rate": 0.15, "max_bin": 63}
TEACHER_PATIENCE = 10


@dataclass(frozen=True)
class Teachers:
    """One booster per fold. `rounds`: trees used of each; `log_loss`: mean on left-out days.

    Of the training rows: `fitted`, each teacher's probability, and `out_of_fold`, that of the one
    teacher that did not see the row's day.
    """

    spec: FeatureSpec
    vocabularies: dict[str, list[str]]
    boosters: list[lightgbm.Booster]
    rounds: int
    log_loss: float
    fitted: np.ndarray  # float64 [n, k]
    out_of_fold: np.ndarray  # float64 [n]

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """The teachers' mean probability, float64 [n]."""
        return self.predict_members(frame).mean(axis=1)

    def predict_members(self, frame: pd.DataFrame) -> np.ndarray:
        """Each teacher's probability, float64 [n, k]."""
        table = lightgbm_table(frame, self.spec, self.vocabularies)
        return _predict(self.boosters, table, self.rounds)


def fit_teachers(train: pd.DataFrame, spec: FeatureSpec, members: int, seed: int) -> Teachers:
    """Cross-validation by day that keeps its models: each is fitted without one fold.

    Raises:
        TrainingError: if a label is missing, one class is absent, or there are fewer days than
            members.
    """
    check_labels(train)
    days = local_day(train)
    if (n_days := len(np.unique(days))) < members:
        raise TrainingError(
            f"each of {members} teachers leaves out other days; there are {n_days} days: use a "
            "longer period"
        )
    vocabularies = build_vocabularies(train, spec)
    table, labels = lightgbm_table(train, spec, vocabularies), train["label"].to_numpy(dtype=bool)
    by_day = GroupKFold(members, shuffle=True, random_state=seed)
    folds = list(by_day.split(table, labels, days))
    results: dict[str, Any] = lightgbm.cv(
        TEACHER_PARAMETERS,
        lightgbm.Dataset(table, label=labels),
        num_boost_round=LIGHTGBM_ROUNDS,
        folds=folds,
        callbacks=[lightgbm.early_stopping(TEACHER_PATIENCE, verbose=False)],
        return_cvbooster=True,
    )
    losses = results["valid binary_logloss-mean"]  # up to the best round
    boosters, rounds = results["cvbooster"].boosters, len(losses)
    for booster in boosters:
        booster.free_dataset()
    fitted = _predict(boosters, table, rounds)
    out_of_fold = np.empty(len(train))
    for i, (_, left_out) in enumerate(folds):
        out_of_fold[left_out] = fitted[left_out, i]
    return Teachers(spec, vocabularies, boosters, rounds, float(losses[-1]), fitted, out_of_fold)


def _predict(boosters: list[lightgbm.Booster], table: pd.DataFrame, rounds: int) -> np.ndarray:
    members = [booster.predict(table, num_iteration=rounds) for booster in boosters]
    return np.stack(members, axis=1)


def soft_targets(members: np.ndarray, rows: pd.DataFrame, label_weight: float) -> np.ndarray:
    """The teachers' probabilities [n, k] for ``rows`` [n], mixed with the rows' labels."""
    labels = rows["label"].to_numpy(dtype=np.float64)[:, None]
    return (1 - label_weight) * members + label_weight * labels


def distill(
    train: pd.DataFrame, spec: FeatureSpec, config: TrainConfig, device: str = "auto"
) -> tuple[TrainedModel, Teachers, list[EpochRecord]]:
    """Teachers and their student. Under torchrun only rank 0 fits the teachers."""

    def fit_and_predict() -> tuple[Teachers, np.ndarray]:
        teachers = fit_teachers(train, spec, config.network.members, config.seed)
        return teachers, soft_targets(teachers.fitted, train, config.label_weight)

    teachers, targets = broadcast_from_rank0(fit_and_predict)
    release_freed_memory()
    model, history = fit(train, targets, spec, config, device)
    return model, teachers, history
