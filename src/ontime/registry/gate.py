"""The promotion gate: may this challenger become champion? Pure functions of predictions.

Challenger and champion are compared on the same rows, which neither was trained on. The challenger
must have the lower log-loss with a stated probability, and may not be worse calibrated, worse in a
slice, or slower. Without a champion it must be better than the baselines.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ontime.evaluation.bootstrap import Comparison, compare
from ontime.evaluation.metrics import expected_calibration_error
from ontime.problem import INSTANCES, MIN_GATE_INSTANCES, MIN_SLICE_INSTANCES, SLICES

MIN_PROBABILITY = 0.90  # of improvement; a wrong promotion and a wrong rejection each cost a week
CALIBRATION_TOLERANCE = 0.01  # ECE may grow by half of what a change of regime in a month adds
SLICE_TOLERANCE = 0.02  # nats of log-loss that one slice may lose
LATENCY_TOLERANCE = 1.5  # times the champion's latency, both measured in turn on the same rows


@dataclass(frozen=True)
class GateResult:
    """The decision, its reasons as sentences, and every number that the rules used."""

    promote: bool
    reasons: tuple[str, ...]
    evidence: dict[str, Any] = field(default_factory=dict)


def evaluate_first_model(
    rows: pd.DataFrame, challenger: np.ndarray, baselines: Mapping[str, np.ndarray]
) -> GateResult:
    """Without a champion: the challenger must be better than each baseline.

    Args:
        rows: test rows [n] with labels.
        challenger: probabilities [n]. baselines: name -> probabilities [n].
    """
    evidence: dict[str, Any] = {"n": len(rows)}
    if too_few := _too_few(rows):
        return GateResult(False, (too_few,), evidence)
    failures = []
    for name, probabilities in baselines.items():
        comparison = compare(rows, challenger, probabilities)
        evidence[f"log_loss_against_{name}"] = asdict(comparison)
        if comparison.probability_of_improvement < MIN_PROBABILITY:
            failures.append(_not_better(f"the {name} baseline", comparison))
    passed = f"lower log-loss than {' and '.join(baselines)} on {len(rows):,} {INSTANCES}"
    return GateResult(not failures, tuple(failures or [passed]), evidence)


def evaluate_challenger(
    rows: pd.DataFrame, challenger: np.ndarray, champion: np.ndarray, latency_ratio: float
) -> GateResult:
    """Compare challenger and champion on test rows [n] with labels.

    Args:
        challenger, champion: probabilities [n].
        latency_ratio: the challenger's prediction time divided by the champion's.
    """
    if too_few := _too_few(rows):
        return GateResult(False, (too_few,), {"n": len(rows)})
    failures = []
    overall = compare(rows, challenger, champion)
    if overall.probability_of_improvement < MIN_PROBABILITY:
        failures.append(_not_better("the champion", overall))
    labels = rows["label"].to_numpy(dtype=bool)
    ece = {
        "challenger": expected_calibration_error(labels, challenger),
        "champion": expected_calibration_error(labels, champion),
    }
    if ece["challenger"] > ece["champion"] + CALIBRATION_TOLERANCE:
        failures.append(
            f"worse calibrated than the champion: ECE {ece['challenger']:.3f} against "
            f"{ece['champion']:.3f}, tolerance {CALIBRATION_TOLERANCE}"
        )
    worse = worse_slices(rows, challenger, champion)
    failures += [f"worse for {name}: {_difference(found)}" for name, found in worse.items()]
    if latency_ratio > LATENCY_TOLERANCE:
        failures.append(
            f"slower: {latency_ratio:.1f} times the champion's latency, limit {LATENCY_TOLERANCE}"
        )
    evidence = {
        "n": len(rows),
        "log_loss": asdict(overall),
        "ece": ece,
        "worse_slices": {name: asdict(found) for name, found in worse.items()},
        "latency_ratio": latency_ratio,
    }
    passed = f"better than the champion on {len(rows):,} {INSTANCES}: {_difference(overall)}"
    return GateResult(not failures, tuple(failures or [passed]), evidence)


def worse_slices(
    rows: pd.DataFrame, challenger: np.ndarray, champion: np.ndarray
) -> dict[str, Comparison]:
    """The slices in which the challenger loses more than the tolerance, with the interval above 0.

    Keys are "slice value".
    """
    worse = {}
    for name, values_of in SLICES.items():
        values = values_of(rows)
        for value in np.unique(values):
            where = values == value
            if where.sum() < MIN_SLICE_INSTANCES:
                continue
            comparison = compare(rows[where], challenger[where], champion[where])
            if comparison.difference > SLICE_TOLERANCE and comparison.low > 0:
                worse[f"{name} {value}"] = comparison
    return worse


def _too_few(rows: pd.DataFrame) -> str:
    if len(rows) >= MIN_GATE_INSTANCES:
        return ""
    return f"evaluated on {len(rows):,} {INSTANCES}, fewer than {MIN_GATE_INSTANCES:,}"


def _not_better(than: str, comparison: Comparison) -> str:
    return (
        f"not better than {than}: probability of improvement "
        f"{comparison.probability_of_improvement:.3f}, below {MIN_PROBABILITY:.2f}; "
        f"{_difference(comparison)}"
    )


def _difference(comparison: Comparison) -> str:
    interval = f"[{comparison.low:+.4f}, {comparison.high:+.4f}]"
    return f"log-loss difference {comparison.difference:+.4f} {interval}"
