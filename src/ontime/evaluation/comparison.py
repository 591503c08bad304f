"""Models on the same test rows: predictions of the baselines, scores, differences of log-loss."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from ontime.data.splits import Split
from ontime.evaluation.bootstrap import compare, ece_interval
from ontime.evaluation.metrics import scores
from ontime.models.baselines import BASELINES
from ontime.problem import FEATURE_SPEC

ALL_BASELINES = tuple(BASELINES)
# LightGBM that stops early on the validation rows, and the five that the network is distilled from,
# which are fitted on the same rows as the network.
TREES = ("lightgbm", "teachers")
# A retrain does without LightGBM: its rows are those of the teachers, which are always evaluated.
QUICK_BASELINES = tuple(name for name in BASELINES if name != "lightgbm")


def fit_baselines(split: Split, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Fit each baseline on the split; its probabilities for the test rows, float64 [n]."""
    return {
        name: BASELINES[name](split.train, split.validation, FEATURE_SPEC).predict(split.test)
        for name in names
    }


def compare_models(
    rows: pd.DataFrame, predictions: Mapping[str, np.ndarray]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores per model, and the network's log-loss minus that of each other model.

    Args:
        rows: [n] test rows with ``label`` and the columns of `ontime.problem.local_day`.
        predictions: model -> probabilities [n], or [seeds, n] of one model per seed: its scores and
            its loss of each row are means over the seeds. Without "network" there are no
            differences.

    Returns:
        Scores: columns model, the names of `scores`, ece_low, ece_high. Differences: columns model
        and the fields of `ontime.evaluation.bootstrap.Comparison`, with 95 % intervals.
    """
    labels = rows.label.to_numpy(dtype=bool)
    models = []
    for name, probabilities in predictions.items():
        low, high = ece_interval(rows, probabilities)
        of_seeds = pd.DataFrame([scores(labels, p) for p in np.atleast_2d(probabilities)])
        models.append(
            {"model": name, **of_seeds.mean().to_dict(), "ece_low": low, "ece_high": high}
        )
    differences = [
        {"model": name} | asdict(compare(rows, predictions["network"], probabilities))
        for name, probabilities in predictions.items()
        if name != "network" and "network" in predictions
    ]
    columns = ["model", "difference", "low", "high", "probability_of_improvement"]
    return pd.DataFrame(models), pd.DataFrame(differences, columns=columns)
