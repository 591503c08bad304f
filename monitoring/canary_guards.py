"""Guards of a canary: a pure function of the prediction log since the canary's start.

Fallbacks, latency and the range of the probabilities are known at once; calibration and log-loss
need outcomes that are due. Both models are compared on the instances that the canary answered: the
champion's probabilities for them are computed from the logged features. One guard that fails is a
rollback. An outcome takes half a day, so that a share may be widened before there are enough; the
step to all instances waits for them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import pandas as pd

from ontime.evaluation.bootstrap import compare
from ontime.problem import INSTANCES, MIN_SLICE_INSTANCES
from ontime.registry.gate import LATENCY_TOLERANCE, SLICE_TOLERANCE
from ontime.storage.decision_log import ChampionChange

# Instances at the present share; with fewer nothing is decided but a rollback. Also forward passes
# of each model: the median of a few is the machine's noise.
MIN_ANSWERED = 30
MAX_FALLBACKS = 0.01  # share of the canary's instances that the champion answered
MAX_OUTSIDE = 0.05  # share of probabilities outside the champion's range
MAX_SHIFT = 0.10  # of the mean probability on the same instances
MAX_BIAS = 0.05  # by which the calibration bias may be larger than the champion's


@dataclass(frozen=True)
class CanaryDecision:
    """`share`: the canary's next share, with "widen" only."""

    action: Literal["wait", "widen", "promote", "rollback"]
    reasons: list[str]
    share: float | None = None


def evaluate_canary(
    rows: pd.DataFrame,
    champion: np.ndarray,
    canary: ChampionChange,
    shares: Sequence[float],
    now: datetime,
) -> CanaryDecision:
    """Roll back, wait, widen or promote.

    Args:
        rows: from `PredictionLog.monitored`, since the canary's first share.
        champion: the champion's probability for each of the rows [n].
        canary: the present share, and since when.
        shares: the shares in their order.
    """
    takes = np.array([canary.takes(name) for name in rows.instance_id], dtype=bool)
    own = (rows.model_version == canary.version).to_numpy()
    present = (rows.as_of > canary.as_of).to_numpy()
    n_taken = int((present & takes).sum())
    due = own & (rows.due_at <= now).to_numpy() & rows.label.notna().to_numpy()
    guards = []
    if n_taken:
        answered = (own & takes)[present & takes]
        guards.append(_limited("fallbacks to the champion", 1 - answered.mean(), MAX_FALLBACKS))
    if (own & present).sum() >= MIN_ANSWERED:
        guards += _guards(rows[present], own[present], champion[present], canary)
    if due.sum() >= MIN_SLICE_INSTANCES:
        guards += _guards_of_outcomes(rows[due], champion[due])
    if failed := [text for passed, text in guards if not passed]:
        return CanaryDecision("rollback", failed)
    texts = [f"{n_taken:,} {INSTANCES} at {canary.share:.0%}", *(text for _, text in guards)]
    wider = [share for share in shares if share > (canary.share or 0.0)]
    if n_taken < MIN_ANSWERED:
        return CanaryDecision("wait", [*texts, f"at least {MIN_ANSWERED} are needed"])
    if wider:
        return CanaryDecision("widen", texts, wider[0])
    if due.sum() < MIN_SLICE_INSTANCES:
        needed = f"{due.sum():,} outcomes are due and known, {MIN_SLICE_INSTANCES:,} are needed"
        return CanaryDecision("wait", [*texts, needed])
    return CanaryDecision("promote", texts)


Guard = tuple[bool, str]  # passed, and why


def _limited(name: str, value: float, limit: float) -> Guard:
    return bool(value <= limit), f"{name} {value:.3f}, limit {limit:g}"


def _guards(
    rows: pd.DataFrame, own: np.ndarray, champion: np.ndarray, canary: ChampionChange
) -> Iterator[Guard]:
    """Latency and probabilities at the present share; needs no outcome."""
    passes = rows.drop_duplicates(["predicted_at", "model_version"])
    seconds = passes.groupby("model_version").model_seconds
    median, n_passes = seconds.median(), seconds.count()
    if all(n_passes.get(name, 0) >= MIN_ANSWERED for name in (canary.version, canary.replaced)):
        ratio = median[canary.version] / median[canary.replaced]
        yield _limited("latency divided by the champion's", ratio, LATENCY_TOLERANCE)
    probabilities, same = rows.probability.to_numpy()[own], champion[own]
    outside = (probabilities < champion.min()) | (probabilities > champion.max())
    yield _limited("probabilities outside the champion's range", outside.mean(), MAX_OUTSIDE)
    shift = abs(probabilities.mean() - same.mean())
    yield _limited("shift of the mean probability", shift, MAX_SHIFT)


def _guards_of_outcomes(rows: pd.DataFrame, champion: np.ndarray) -> Iterator[Guard]:
    """Calibration and log-loss against the champion, like a slice of the traffic at the gate."""
    labels = rows.label.to_numpy(dtype=bool)
    probabilities = rows.probability.to_numpy(dtype=np.float64)
    bias, before = (abs((p - labels).mean()) for p in (probabilities, champion))
    yield _limited("growth of the calibration bias", bias - before, MAX_BIAS)
    found = compare(rows, probabilities, champion)
    worse = found.difference > SLICE_TOLERANCE and found.low > 0
    yield (
        not worse,
        f"log-loss difference {found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}] on "
        f"{len(rows):,} {INSTANCES}, limit {SLICE_TOLERANCE}",
    )
