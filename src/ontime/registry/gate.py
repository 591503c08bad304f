"""The promotion gate: may this challenger become champion? Pure functions of predictions.

A challenger is trained on every known outcome, so that no test row is left. It is evaluated on live
traffic that it scored in shadow: the champion's requests with the same served features, once their
outcomes are due. It is promoted if it is better with the probability of a `GateRule`, and not worse
calibrated, worse in a slice, or slower. A first model is evaluated on a test split instead: it must
be better than each baseline, and not inferior to gradient-boosted trees on the same rows.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd

from ontime.evaluation.bootstrap import SEED, Comparison, compare
from ontime.evaluation.metrics import expected_calibration_error
from ontime.problem import INSTANCES, MIN_GATE_INSTANCES, MIN_SLICE_INSTANCES, SLICES

CALIBRATION_TOLERANCE = 0.01  # ECE may grow by half of what a change of regime in a month adds
SLICE_TOLERANCE = 0.02  # nats of log-loss that one slice may lose
LATENCY_TOLERANCE = 1.5  # times the champion's latency, both measured in turn on the same rows
# The bootstrap's standard error of a probability p is sqrt(p (1 - p) / N): at most 0.0016. With
# 1,000 resamples it was 0.016, and half of all seeds rejected a model that one seed promoted.
GATE_RESAMPLES = 100_000


@dataclass(frozen=True)
class GateRule:
    """Promote if the log-loss difference is below ``margin`` with at least this probability.

    A margin of 0 demands superiority; a margin above 0 demands that the challenger is not worse by
    more than that (non-inferiority).
    """

    margin: float  # nats
    min_probability: float


FIRST_MODEL = GateRule(margin=0.0, min_probability=0.90)
# Trees are strong, and the network is served for more than its log-loss (docs/adr/): it may lose a
# quarter of what the gate lets one slice lose, and no more.
NOT_INFERIOR = GateRule(margin=0.005, min_probability=0.90)
# Rejected only if clearly worse: worse with a probability above .95. A challenger knows newer
# outcomes, so that it is better unless something is wrong; a rule that demands proof rejects fresh
# models on a week's noise. `make policies` compares rules: superiority at .90 with a training every
# two weeks served no better than a frozen model.
UNLESS_WORSE = GateRule(margin=0.0, min_probability=0.05)


@dataclass(frozen=True)
class GateResult:
    """The decision, its reasons as sentences, and every number that the rules used."""

    promote: bool
    reasons: tuple[str, ...]
    evidence: dict[str, Any] = field(default_factory=dict)


def evaluate_first_model(
    rows: pd.DataFrame,
    challenger: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    trees: Mapping[str, np.ndarray],
) -> GateResult:
    """Without a champion: better than each baseline, and not inferior to trees.

    Args:
        rows: test rows [n] with labels.
        challenger: probabilities [n]. baselines, trees: name -> probabilities [n].
    """
    evidence: dict[str, Any] = {"n": len(rows)}
    if too_few := _too_few(rows):
        return GateResult(False, (too_few,), evidence)
    failures = []
    for rule, others in ((FIRST_MODEL, baselines), (NOT_INFERIOR, trees)):
        for name, probabilities in others.items():
            comparison = _compare(rows, challenger, probabilities, rule)
            evidence[f"log_loss_against_{name}"] = asdict(comparison)
            if comparison.probability_of_improvement < rule.min_probability:
                failures.append(_not_better(f"the {name} baseline", comparison, rule))
    passed = f"lower log-loss than {' and '.join(baselines)} on {len(rows):,} {INSTANCES}"
    if trees:
        passed += f"; not inferior to {' and '.join(trees)} by {NOT_INFERIOR.margin:g}"
    return GateResult(not failures, tuple(failures or [passed]), evidence)


def evaluate_challenger(
    rows: pd.DataFrame,
    challenger: np.ndarray,
    champion: np.ndarray,
    latency_ratio: float,
    rule: GateRule = UNLESS_WORSE,
) -> GateResult:
    """Compare challenger and champion on the same requests [n], which both scored live.

    Args:
        rows: requests with due outcomes. challenger, champion: probabilities [n].
        latency_ratio: the challenger's prediction time divided by the champion's.
    """
    if too_few := _too_few(rows):
        return GateResult(False, (too_few,), {"n": len(rows)})
    failures = []
    overall = _compare(rows, challenger, champion, rule)
    if overall.probability_of_improvement < rule.min_probability:
        failures.append(_not_better("the champion", overall, rule))
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
    probability = overall.probability_of_improvement
    evidence = {
        "n": len(rows),
        "rule": asdict(rule),
        "log_loss": asdict(overall),
        "monte_carlo_error": sqrt(probability * (1 - probability) / GATE_RESAMPLES),
        "ece": ece,
        "worse_slices": {name: asdict(found) for name, found in worse.items()},
        "latency_ratio": latency_ratio,
    }
    passed = (
        f"probability {probability:.3f} of a log-loss difference below {rule.margin:g} on "
        f"{len(rows):,} {INSTANCES} in shadow, at least {rule.min_probability:.2f}; "
        f"{_difference(overall)}"
    )
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


def _compare(rows: pd.DataFrame, a: np.ndarray, b: np.ndarray, rule: GateRule) -> Comparison:
    return compare(rows, a, b, GATE_RESAMPLES, rule.margin, SEED)


def _too_few(rows: pd.DataFrame) -> str:
    if len(rows) >= MIN_GATE_INSTANCES:
        return ""
    return f"evaluated on {len(rows):,} {INSTANCES}, fewer than {MIN_GATE_INSTANCES:,}"


def _not_better(than: str, comparison: Comparison, rule: GateRule) -> str:
    return (
        f"not better than {than}: probability {comparison.probability_of_improvement:.3f} of a "
        f"log-loss difference below {rule.margin:g}, below {rule.min_probability:.2f}; "
        f"{_difference(comparison)}"
    )


def _difference(comparison: Comparison) -> str:
    interval = f"[{comparison.low:+.4f}, {comparison.high:+.4f}]"
    return f"log-loss difference {comparison.difference:+.4f} {interval}"
