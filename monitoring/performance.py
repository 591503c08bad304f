"""How good the served predictions were: predictions joined to the outcomes known by the clock.

Every figure stands beside its label coverage, its interval, and the champion's own validation.

Notable decisions
- Only flights that are *due* are scored. Late flights report late: scoring whatever is known by now
  would leave out the latest ones of the last hours and flatter every figure.
- Intervals resample whole days (local days of New York): flights of a day share its weather. Days
  in a row are alike as well, so the intervals are still somewhat narrow; decisions keep a margin.
- Weeks differ in difficulty more than models do. The scale is a constant predictor that knows the
  period's late share: `excess_log_loss` is what the champion loses beyond the share of that
  constant's loss that it was left with on validation. (The plain difference to the constant
  grows with the late share: it calls every calm autumn week a failure.)
- ECE's interval sits high: resampling adds noise and ECE counts noise as error.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from ontime.evaluation import ECE_BINS, HOME_ZONE, brier_losses, log_losses, scores

# 99.97% of outcomes are known 12 h after scheduled departure (99.1% after 8 h); what is still
# missing then is all late, but too little to move a figure.
DUE_AFTER = timedelta(hours=12)
N_RESAMPLES = 1000
SEED = 0
AUC_GRID = 1000  # groups of equal mass in which a resample's AUC counts ties as half


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Performance:
    """Figures of one stretch of served predictions; `dataclasses.asdict` gives JSON.

    `scores`: auc, log_loss, brier, ece, calibration_gap (mean prediction minus late share),
    constant_log_loss and excess_log_loss (see above). Empty while the due labels cannot be scored
    (none, one day, or all alike). `validation`: the champion's figures of the same names.
    """

    since: str | None  # first and last moment asked from, ISO 8601; None: nothing was served
    until: str | None
    known_by: str
    n_served: int
    n_due: int
    n_known: int  # of the due ones: these are scored
    n_days: int  # with at least one scored flight
    label_coverage: float | None  # known / due; None while nothing is due
    mean_prediction: float | None  # of everything served, labelled or not
    late_share: float | None  # of the scored
    scores: dict[str, Estimate]
    validation: dict[str, float]


class PerformanceError(ValueError):
    """The frame or the validation figures given cannot be judged."""


def performance(
    served: pd.DataFrame, known_by: datetime, validation_scores: dict[str, float]
) -> Performance:
    """Judge predictions, one row each, by the outcomes known at `known_by`.

    Args:
        served: probability_late, as_of, scheduled_departure, is_late (nullable), known_at.
        known_by: the clock; an outcome known later does not count.
        validation_scores: what `ontime.evaluation.scores` said of the champion's validation.
    """
    validation = _validation_figures(validation_scores)
    due = served[served["scheduled_departure"] + DUE_AFTER <= known_by]
    scored = due[due["is_late"].notna() & (due["known_at"] <= known_by)]
    days = scored["scheduled_departure"].dt.tz_convert(HOME_ZONE).dt.date
    return Performance(
        since=_iso(served["as_of"].min()),
        until=_iso(served["as_of"].max()),
        known_by=known_by.isoformat(),
        n_served=len(served),
        n_due=len(due),
        n_known=len(scored),
        n_days=int(days.nunique()),
        label_coverage=len(scored) / len(due) if len(due) else None,
        mean_prediction=float(served["probability_late"].mean()) if len(served) else None,
        late_share=float(scored["is_late"].mean()) if len(scored) else None,
        scores=_estimates(scored, days, _expected_share(validation)),
        validation=validation,
    )


def _iso(moment: pd.Timestamp) -> str | None:
    return None if pd.isna(moment) else moment.isoformat()


def _validation_figures(given: dict[str, float]) -> dict[str, float]:
    needed = ("auc", "log_loss", "brier", "ece", "mean_prediction", "late_share")
    if missing := [name for name in needed if name not in given]:
        raise PerformanceError(
            f"validation figures hold {', '.join(needed)}; missing: {', '.join(missing)}: "
            "pass what ontime.evaluation.scores said of the champion"
        )
    figures = {name: float(given[name]) for name in needed}
    return figures | {
        "calibration_gap": figures["mean_prediction"] - figures["late_share"],
        "constant_log_loss": float(_constant_log_loss(figures["late_share"])),
    }


def _expected_share(validation: dict[str, float]) -> float:
    """The share of a constant predictor's loss that the champion was left with on validation."""
    return validation["log_loss"] / validation["constant_log_loss"]


def _constant_log_loss(late_share: float | np.ndarray) -> np.ndarray:
    """Log-loss of predicting the late share for every flight, in nats."""
    share = np.clip(late_share, 1e-7, 1 - 1e-7)
    return -(share * np.log(share) + (1 - share) * np.log1p(-share))


def _estimates(scored: pd.DataFrame, days: pd.Series, expected_share: float) -> dict[str, Estimate]:
    if days.nunique() < 2 or scored["is_late"].nunique() < 2:
        return {}
    y = scored["is_late"].to_numpy(dtype=bool)
    p = scored["probability_late"].to_numpy(dtype=np.float64)
    figures = scores(y, p)
    values = {name: figures[name] for name in ("auc", "log_loss", "brier", "ece")}
    values["calibration_gap"] = figures["mean_prediction"] - figures["late_share"]
    values["constant_log_loss"] = float(_constant_log_loss(figures["late_share"]))
    values["excess_log_loss"] = values["log_loss"] - expected_share * values["constant_log_loss"]
    resampled = _resampled(y, p, pd.factorize(days)[0], expected_share)
    return {name: _with_interval(value, resampled[name]) for name, value in values.items()}


def _with_interval(value: float, resampled: np.ndarray) -> Estimate:
    # A resample of days without any late flight has no AUC.
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def _resampled(
    y: np.ndarray, p: np.ndarray, day: np.ndarray, expected_share: float
) -> dict[str, np.ndarray]:
    """Each figure over resamples of whole days, from the days' sums alone: [N_RESAMPLES] each."""
    n_days = int(day.max()) + 1
    even = np.full(n_days, 1 / n_days)
    drawn = np.random.default_rng(SEED).multinomial(n_days, even, size=N_RESAMPLES)

    def total(values: np.ndarray, group: np.ndarray | int = 0, n_groups: int = 1) -> np.ndarray:
        """[resamples, groups]: the sum of `values` in each group."""
        cells = np.bincount(day * n_groups + group, values, minlength=n_days * n_groups)
        return drawn @ cells.reshape(n_days, n_groups)

    n = total(np.ones(len(y)))[:, 0]
    late = total(y)[:, 0]
    loss = total(log_losses(y, p))[:, 0] / n
    constant = _constant_log_loss(late / n)
    ece_bin, step = _equal_mass(p, ECE_BINS), _equal_mass(p, AUC_GRID)
    late_at, on_time_at = total(y, step, AUC_GRID), total(~y, step, AUC_GRID)
    on_time_below = on_time_at.cumsum(axis=1) - on_time_at / 2
    with np.errstate(invalid="ignore"):
        auc = (late_at * on_time_below).sum(axis=1) / (late * (n - late))
    return {
        "auc": auc,
        "log_loss": loss,
        "brier": total(brier_losses(y, p))[:, 0] / n,
        "ece": np.abs(total(p - y, ece_bin, ECE_BINS)).sum(axis=1) / n,
        "calibration_gap": total(p - y)[:, 0] / n,
        "constant_log_loss": constant,
        "excess_log_loss": loss - expected_share * constant,
    }


def _equal_mass(p: np.ndarray, n_groups: int) -> np.ndarray:
    """The group of each row when sorted by probability and cut into groups of equal mass.

    Equal probabilities share the group of their first row: a tie is never an order.
    """
    first = np.searchsorted(np.sort(p), p)
    return first * n_groups // len(p)
