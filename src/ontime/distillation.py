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

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean

import lightgbm
import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from ontime.baselines import LIGHTGBM_PARAMETERS, LIGHTGBM_ROUNDS, lightgbm_table
from ontime.evaluation import local_days
from ontime.model import FeatureSpec, TrainedModel, build_vocabularies
from ontime.processes import from_first
from ontime.training import EpochRecord, TrainConfig, TrainingError, check_labels, fit

# Five times the step and a quarter of the bins: what is lost, the student smooths away.
TEACHER_PARAMETERS = LIGHTGBM_PARAMETERS | {"learning_rate": 0.15, "max_bin": 63}
TEACHER_PATIENCE = 10


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

        def answer(booster: lightgbm.Booster) -> np.ndarray:
            return np.asarray(booster.predict(table, num_iteration=self.rounds))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack(list(pool.map(answer, self.boosters)), axis=1)


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
    data = lightgbm.Dataset(table, label=late, params=TEACHER_PARAMETERS).construct()
    folds = GroupKFold(members, shuffle=True, random_state=seed).split(table, late, days)
    boosters, rounds, log_loss = _grow_together(data, list(folds))
    return Teachers(spec, vocabularies, boosters, rounds, log_loss)


def _grow_together(
    data: lightgbm.Dataset, folds: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[lightgbm.Booster], int, float]:
    """A tree each, side by side, while their mean loss on the days left out still falls: what
    `lightgbm.cv` does one after the other. Boosters, the best number of trees, and that loss.

    Trees this small keep one core busy and no more. A booster stays in the thread that made it,
    because LightGBM's number of threads and its log level belong to the calling thread.
    """
    cores = (os.cpu_count() or 1) // len(folds)
    parameters = TEACHER_PARAMETERS | {"num_threads": max(1, cores)}

    def plant(seen: np.ndarray, left_out: np.ndarray) -> lightgbm.Booster:
        booster = lightgbm.Booster(parameters, data.subset(seen.tolist(), parameters))
        return booster.add_valid(data.subset(left_out.tolist(), parameters), "left out")

    def grow(booster: lightgbm.Booster) -> float:
        booster.update()
        return float(booster.eval_valid()[0][2])

    losses: list[float] = []
    best = 0
    with ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in folds]
        planted = [thread.submit(plant, *fold) for thread, fold in zip(threads, folds, strict=True)]
        boosters = [future.result() for future in planted]
        while len(losses) < LIGHTGBM_ROUNDS and len(losses) - best <= TEACHER_PATIENCE:
            grown = [thread.submit(grow, b) for thread, b in zip(threads, boosters, strict=True)]
            losses.append(fmean(future.result() for future in grown))
            best = int(np.argmin(losses))
    return boosters, best + 1, losses[best]


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
