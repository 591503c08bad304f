"""False-alarm rate and detection delay of the monitoring rules, on real and simulated changes.

- Calm: a model that is trained anew every week. An alarm on its predictions is called false.
- Simulated change: from some day on, every probability of that line is shifted in log-odds, which
  no longer fits the outcomes; one change per week of the period. The delay is the time to the first
  alarm, which also a false one can be.
- Real change: a model frozen at the start. A date, not a delay: when the change began is not known.

Each rule sees one value per local day and the days since its last alarm, as monitoring does.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from experiments.policy_models import TRAINING_INTERVAL, WeeklyModels
from monitoring.sequential import (
    CUSUM_LIMIT,
    PAGE_HINKLEY_LIMIT,
    cusum,
    daily_values,
    page_hinkley,
    spread,
)
from ontime.problem import HOLDOUT_FROM, MIN_MONITORING_DAYS

SHIFT = 0.4  # in log-odds: a positive rate of .25 becomes .33
PATIENCE_DAYS = 28  # a change that is not found within this is missed
WINDOW_DAYS = 28
Rule = Callable[[pd.DataFrame], np.ndarray]


def cusum_rule(values: pd.DataFrame) -> np.ndarray:
    residual = values.residual.to_numpy()
    return cusum(residual, spread(residual)) > CUSUM_LIMIT


def page_hinkley_rule(values: pd.DataFrame) -> np.ndarray:
    excess = values.excess_loss.to_numpy()
    return page_hinkley(excess, spread(excess)) > PAGE_HINKLEY_LIMIT


def window_rule(values: pd.DataFrame) -> np.ndarray:
    """The calibration bias of the last 28 days above .03, with its interval .01 away from zero."""
    windows = values.residual.rolling(WINDOW_DAYS, min_periods=MIN_MONITORING_DAYS)
    bias, error = windows.mean().abs(), windows.std() / np.sqrt(windows.count())
    return ((bias > 0.03) & (bias - 1.96 * error > 0.01)).to_numpy()


RULES: dict[str, Rule] = {
    "CUSUM of the residuals": cusum_rule,
    "Page-Hinkley of the excess loss": page_hinkley_rule,
    "calibration bias over 28 days": window_rule,
}


def alarms(rule: Rule, values: pd.DataFrame) -> list[int]:
    """Days (indices) of the alarms; the rule starts anew after each."""
    found: list[int] = []
    first = 0
    while len(values) - first >= MIN_MONITORING_DAYS:
        rings = rule(values[first:])
        rings[: MIN_MONITORING_DAYS - 1] = False
        if not rings.any():
            break
        found.append(first + int(rings.argmax()))
        first = found[-1] + 1
    return found


def fresh_line(models: WeeklyModels, start: datetime, end: datetime) -> np.ndarray:
    """The predictions of a model that is trained anew every week, float64 [n]."""
    served = np.full(len(models.rows), np.nan)
    while start < end:
        later = (models.rows.event_timestamp > start).to_numpy()
        served[later] = models.probabilities[start][later]
        start += TRAINING_INTERVAL
    return served


def shifted(values: np.ndarray) -> np.ndarray:
    """Probabilities shifted by `SHIFT` in log-odds, downwards."""
    odds = values / (1 - values) * np.exp(-SHIFT)
    return odds / (1 + odds)


def delays(rule: Rule, calm: pd.DataFrame, changed: pd.DataFrame) -> list[int | None]:
    """Days from each simulated change to the alarm; None if it is missed."""
    found: list[int | None] = []
    for change in range(WINDOW_DAYS, len(calm) - PATIENCE_DAYS, 7):
        values = pd.concat([calm[change - WINDOW_DAYS : change], changed[change:]])
        rings = rule(values[: WINDOW_DAYS + PATIENCE_DAYS])[WINDOW_DAYS:]
        found.append(int(rings.argmax()) + 1 if rings.any() else None)
    return found


def detection_report(models: WeeklyModels, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """One row per rule and period: false alarms, delay on simulated changes, alarms if frozen."""
    rows, fresh = models.rows, fresh_line(models, start, end)
    lines = {"calm": fresh, "changed": shifted(fresh), "frozen": models.probabilities[start]}
    values = {name: daily_values(rows.assign(probability=p)) for name, p in lines.items()}
    holdout = values["calm"].index >= np.datetime64(HOLDOUT_FROM)
    report = []
    for period, where in {"choice": ~holdout, "holdout": holdout}.items():
        calm, changed, frozen = (values[name][where] for name in ("calm", "changed", "frozen"))
        for name, rule in RULES.items():
            if len(calm) < WINDOW_DAYS + PATIENCE_DAYS:
                continue
            took = delays(rule, calm, changed)
            detected = [days for days in took if days is not None]
            report.append(
                {
                    "rule": name,
                    "period": period,
                    "days": len(calm),
                    "false_alarms_per_100_days": 100 * len(alarms(rule, calm)) / len(calm),
                    "changes": len(took),
                    "detected": len(detected),
                    "median_delay_days": float(np.median(detected)) if detected else None,
                    "alarms_of_the_frozen_model": [
                        str(frozen.index[i])[:10] for i in alarms(rule, frozen)
                    ],
                }
            )
    return report
