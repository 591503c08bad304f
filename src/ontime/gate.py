"""The gate: may this challenger serve? One pure function from numbers to a verdict with reasons.

Champion and challenger answer the same flights, which neither has seen. The challenger must be
better in log-loss with stated confidence, not worse calibrated, not worse for any group of
flights, and not slower. With no champion yet it has to beat the baselines instead.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ontime import evaluation

MIN_FLIGHTS = 2_000  # about two days; below that a day's weather decides
CONFIDENCE = 0.90  # of being better; a refusal costs a week, a bad promotion a week of answers
CALIBRATION_TOLERANCE = 0.01  # ECE may grow by this: half of what a month's change of regime does
SLICE_TOLERANCE = 0.02  # log-loss, nats; a group may lose this much where the whole wins
SLICE_MIN_FLIGHTS = 300
SLICES = ("carrier", "origin", "day_part")
LATENCY_TOLERANCE = 1.5  # times the champion's; both timed in turn on the same rows


@dataclass(frozen=True)
class Verdict:
    """``promote`` and why. ``evidence`` holds every number that the rules looked at."""

    promote: bool
    reasons: tuple[str, ...]
    evidence: dict[str, Any] = field(default_factory=dict)


def judge_first(
    flights: pd.DataFrame, challenger: np.ndarray, baselines: Mapping[str, np.ndarray]
) -> Verdict:
    """Without a champion: better than each baseline, with the confidence asked of a challenger.

    Args:
        flights: [n] with is_late and scheduled_departure; unseen by every model.
        challenger: [n] probabilities. baselines: name -> [n] probabilities.
    """
    evidence: dict[str, Any] = {"flights": len(flights)}
    if failures := _too_few(flights):
        return Verdict(False, tuple(failures), evidence)
    for name, probabilities in baselines.items():
        comparison = evaluation.compare(flights, challenger, probabilities)
        evidence[f"log_loss_against_{name}"] = asdict(comparison)
        if comparison.confidence < CONFIDENCE:
            failures.append(f"better than {name} {_doubt(comparison)}")
    won = f"better than {' and '.join(baselines)} on {len(flights):,} unseen flights"
    return Verdict(not failures, tuple(failures or [won]), evidence)


def judge_against_champion(
    flights: pd.DataFrame,
    challenger: np.ndarray,
    champion: np.ndarray,
    latency_ratio: float,
) -> Verdict:
    """Challenger against champion on flights [n] that neither has seen.

    Args:
        flights: [n] with is_late, scheduled_departure, carrier, origin.
        latency_ratio: the challenger's time to answer over the champion's.
    """
    if failures := _too_few(flights):
        return Verdict(False, tuple(failures), {"flights": len(flights)})
    whole = evaluation.compare(flights, challenger, champion)
    if whole.confidence < CONFIDENCE:
        failures.append(f"better {_doubt(whole)}")
    labels = flights.is_late.to_numpy(dtype=bool)
    ece = {
        name: evaluation.expected_calibration_error(labels, probabilities)
        for name, probabilities in (("challenger", challenger), ("champion", champion))
    }
    if ece["challenger"] > ece["champion"] + CALIBRATION_TOLERANCE:
        failures.append(
            f"worse calibrated: ECE {ece['challenger']:.3f} against {ece['champion']:.3f}"
        )
    worse = worse_slices(flights, challenger, champion)
    failures += [f"worse for {name}: {_interval(comparison)}" for name, comparison in worse.items()]
    if latency_ratio > LATENCY_TOLERANCE:
        failures.append(f"slower: {latency_ratio:.1f} times the champion's time to answer")
    evidence = {
        "flights": len(flights),
        "log_loss": asdict(whole),
        "ece": ece,
        "worse_slices": {name: asdict(comparison) for name, comparison in worse.items()},
        "latency_ratio": latency_ratio,
    }
    won = f"better on {len(flights):,} unseen flights: {_interval(whole)}"
    return Verdict(not failures, tuple(failures or [won]), evidence)


def worse_slices(
    flights: pd.DataFrame, challenger: np.ndarray, champion: np.ndarray
) -> dict[str, evaluation.Comparison]:
    """Groups in which the challenger is worse by more than the tolerance, the interval above 0."""
    worse = {}
    for kind in SLICES:
        values = evaluation.slice_values(flights, kind)
        for value in np.unique(values):
            where = values == value
            if where.sum() < SLICE_MIN_FLIGHTS:
                continue
            comparison = evaluation.compare(flights[where], challenger[where], champion[where])
            if comparison.difference > SLICE_TOLERANCE and comparison.low > 0:
                worse[f"{kind} {value}"] = comparison
    return worse


def _too_few(flights: pd.DataFrame) -> list[str]:
    if len(flights) >= MIN_FLIGHTS:
        return []
    return [f"judged on {len(flights):,} flights, fewer than {MIN_FLIGHTS:,}"]


def _doubt(comparison: evaluation.Comparison) -> str:
    confidence = f"with confidence {comparison.confidence:.3f}, below {CONFIDENCE}"
    return f"{confidence}: {_interval(comparison)}"


def _interval(comparison: evaluation.Comparison) -> str:
    return f"log-loss {comparison.difference:+.4f} [{comparison.low:+.4f}, {comparison.high:+.4f}]"
