"""Was the gate right? Each evaluated challenger against its champion, in the week after."""

from datetime import timedelta
from typing import TypedDict

import pandas as pd

from monitoring.retrain_policy import SHADOW_PERIOD
from ontime.evaluation.metrics import log_losses
from ontime.registry import model_registry
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog

HORIZON = timedelta(days=7)


class HindsightRow(TypedDict):
    """`difference`: mean log-loss of the challenger minus the champion in the week after."""

    at: str  # ISO 8601
    version: str
    champion: str
    result: str
    difference: float
    right: bool


def hindsight(settings: Settings, log: DecisionLog, served: pd.DataFrame) -> list[HindsightRow]:
    """One entry per evaluated challenger that has labelled predictions in the week after.

    Args:
        served: from `PredictionLog.served`; both models score the logged features.
    """
    gate_results: list[HindsightRow] = []
    changes = log.changes()
    for decision in log.decisions():
        if decision["result"] is None:
            continue
        at, version = decision["decided_at"] + SHADOW_PERIOD, decision["challenger"]
        champion = [c.version for c in changes if c.as_of < at and c.kind != "canary"][-1]
        in_week = (served.as_of > at) & (served.as_of <= at + HORIZON) & served.label.notna()
        rows = served[in_week]
        if rows.empty:
            continue
        labels = rows.label.to_numpy(dtype=bool)
        new, old = (
            log_losses(labels, model_registry.load(settings, name).predict(rows)).mean()
            for name in (version, champion)
        )
        difference = float(new - old)
        right = (difference < 0) == (decision["result"] == "promoted")
        gate_results.append(
            HindsightRow(
                at=at.isoformat(),
                version=version,
                champion=champion,
                result=decision["result"],
                difference=difference,
                right=right,
            )
        )
    return gate_results
