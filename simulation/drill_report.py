"""What a drill showed: when it was noticed, what monitoring said and did, and what it cost."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from monitoring.input_checks import (
    MIN_LABELS_KNOWN,
    MISSING_LIMIT,
    PERIOD,
    UNIT_FACTOR,
    broken_feeds,
    check_inputs,
    factor,
)
from monitoring.performance import cost_per_1000
from monitoring.retrain_policy import SHADOW_PERIOD, TRAINING_TIME
from monitoring.sequential import LIMITS, NAMES
from ontime.data.drill_types import (
    ChangedRegime,
    ChangedUnit,
    CorruptedLabels,
    Drill,
    StoppedLabels,
    StoppedView,
)
from ontime.evaluation.bootstrap import compare
from ontime.evaluation.metrics import log_losses
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import build_examples, load_requests
from ontime.problem import PREDICTION_INTERVAL
from ontime.registry import model_registry
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog
from ontime.storage.prediction_log import PredictionLog
from simulation.report import ALERTS, replay_events

HOUR = timedelta(hours=1)
FEED_CODES = {"view_missing", "unit_changed", "labels_stopped"}
NOTICED_BY = {
    StoppedView: {"view_missing"},
    StoppedLabels: {"labels_stopped"},
    ChangedUnit: {"unit_changed"},
    ChangedRegime: ALERTS,
}


@dataclass(frozen=True)
class Traffic:
    """Predictions and decisions after the moment that all drills share."""

    served: pd.DataFrame  # from `PredictionLog.monitored`, with the outcomes known at the end
    decisions: list[dict[str, Any]]
    events: list[Any]

    @classmethod
    def read(cls, settings: Settings, since: datetime, until: datetime) -> "Traffic":
        log = PredictionLog(settings.prediction_db_url)
        decisions = DecisionLog(log)
        return cls(
            log.monitored(since, until + PREDICTION_INTERVAL, known_by=until),
            [row for row in decisions.decisions() if row["decided_at"] > since],
            [row for row in replay_events(decisions) if row["at"] > since.isoformat()],
        )

    def broken_feeds(self) -> list[str]:
        """What the checks of the inputs reported."""
        return [
            f"{row['decided_at']:%Y-%m-%d}: {reason['text']}"
            for row in self.decisions
            for reason in row["reasons"]
            if reason["code"] in FEED_CODES
        ]


def drill_report(
    settings: Settings, drill: Drill, disturbed: Traffic, undisturbed: Traffic
) -> dict[str, Any]:
    """The report of one drill as JSON values. ``settings``: of its data folder."""
    noticed_at, told = noticed(drill, disturbed.decisions)
    in_time = [row for row in disturbed.decisions if row["decided_at"] >= drill.since]
    held_back = [
        row["decided_at"].isoformat()
        for row in in_time
        if any(reason["code"] == "held_back_scheduled" for reason in row["reasons"])
        and any(reason["code"] in FEED_CODES for reason in row["reasons"])
    ]
    return (
        {
            "name": drill.name,
            "title": drill.title,
            "text": drill.text,
            "kind": type(drill.fault).__name__,
            "since": drill.since.isoformat(),
            "until": drill.until.isoformat(),
            "end": drill.end.isoformat(),
            "limit_hours": drill.limit_hours,
            "noticed_at": noticed_at and noticed_at.isoformat(),
            "noticed_after_hours": noticed_at and (noticed_at - drill.since) / HOUR,
            "told": told,
            "held_back": held_back,
            "events": [row for row in disturbed.events if row["at"] >= drill.since.isoformat()],
            "decisions": [
                {"at": row["decided_at"].isoformat(), "codes": [r["code"] for r in row["reasons"]]}
                for row in in_time
            ],
            "stale_responses": n_stale(disturbed.served, drill),
            "stale_responses_undisturbed": n_stale(undisturbed.served, drill),
        }
        | cost(settings, drill, disturbed, undisturbed)
        | {"signal": signal(settings, drill, disturbed)}
    )


def noticed(drill: Drill, decisions: list[dict[str, Any]]) -> tuple[datetime | None, list[str]]:
    """When monitoring or the gate first reported the incident, and in which sentences."""
    for row in decisions:
        if row["decided_at"] < drill.since:
            continue
        if isinstance(drill.fault, CorruptedLabels):
            if row["result"] == "rejected":
                return row["decided_at"] + SHADOW_PERIOD, row["result_reasons"]
            continue
        codes = NOTICED_BY[type(drill.fault)]
        if texts := [each["text"] for each in row["reasons"] if each["code"] in codes]:
            return row["decided_at"], texts
    return None, []


def in_period(served: pd.DataFrame, drill: Drill) -> pd.Series:
    return (served.as_of > drill.since) & (served.as_of <= drill.until)


def n_stale(served: pd.DataFrame, drill: Drill) -> int:
    """Responses in the period of the incident that named a stale feature."""
    return int((served[in_period(served, drill)].features_stale.map(len) > 0).sum())


def cost(
    settings: Settings, drill: Drill, disturbed: Traffic, undisturbed: Traffic
) -> dict[str, Any]:
    """Log-loss and cost of what was served, against what would have been served.

    That is the undisturbed replay; of a change of regime, which no replay is without, it is the
    model that was trained upon the alert, on the days of its shadow deployment.
    """
    served = disturbed.served.copy()
    if isinstance(drill.fault, ChangedRegime):
        answer = next(
            (
                row
                for row in disturbed.decisions
                if row["challenger"] and row["decided_at"] >= drill.since
            ),
            None,
        )
        if answer is None:
            return {"against": "", "cost": None, "days": []}
        since, until = answer["decided_at"] + TRAINING_TIME, answer["decided_at"] + SHADOW_PERIOD
        model = model_registry.load(settings, answer["challenger"])
        # On earlier days it was trained.
        served["other"] = np.where(served.as_of > since, model.predict(served), np.nan)
        known = served[served.label.notna()]
        period = known[(known.as_of > since) & (known.as_of <= until)]
        against = f"version {answer['challenger']}, trained upon the alert"
    else:
        other = undisturbed.served.set_index("instance_id")[["probability", "label"]]
        served = served.drop(columns="label").join(
            other.rename(columns={"probability": "other"}), on="instance_id"
        )
        known = served[served.label.notna()]
        period = known[in_period(known, drill)]
        against = "the undisturbed replay"
    found = compare(period, period.probability.to_numpy(), period.other.to_numpy())
    return {
        "against": against,
        "cost": {
            "n": len(period),
            "difference": found.difference,
            "low": found.low,
            "high": found.high,
            "per_1000": cost_per_1000(period.label, period.probability),
            "per_1000_other": cost_per_1000(period.label, period.other),
        },
        "days": [
            {"day": day.isoformat()}
            | {
                key: _mean_loss(rows.label, rows[name])
                for key, name in (("served", "probability"), ("other", "other"))
            }
            for day, rows in known.groupby(known.as_of.dt.floor("D"))
        ],
    }


def _mean_loss(labels: pd.Series, probabilities: pd.Series) -> float | None:
    """None where a probability is missing."""
    if probabilities.isna().any():
        return None
    return float(log_losses(labels.to_numpy(dtype=bool), probabilities.to_numpy()).mean())


def signal(settings: Settings, drill: Drill, disturbed: Traffic) -> dict[str, Any]:
    """The value that notices the incident, at each monitoring run, and its limit."""
    rows = disturbed.decisions
    match drill.fault:
        case StoppedView(view):
            name, limit = f"share of predictions without {view}, above training", MISSING_LIMIT
            values = [row["evidence"]["inputs"]["missing"].get(view) for row in rows]
        case StoppedLabels():
            name, limit = "share of the day's due labels that are known", MIN_LABELS_KNOWN
            values = [row["evidence"]["inputs"]["label_coverage"] for row in rows]
        case ChangedUnit():
            name, limit = (
                "largest factor between the scale of a feature and that in training",
                UNIT_FACTOR,
            )
            scales = [row["evidence"]["inputs"]["scale"].values() for row in rows]
            values = [max(map(factor, each), default=None) for each in scales]
        case CorruptedLabels():
            return shadow_signal(settings, drill, disturbed)
        case ChangedRegime():
            fired = [
                reason["code"].removeprefix("held_back_")
                for row in rows
                for reason in row["reasons"]
                if reason["code"] in ALERTS and row["decided_at"] >= drill.since
            ]
            test = next(iter(fired), "residual")
            name, limit = f"{NAMES[test]}, in spreads", LIMITS[test]
            values = [row["evidence"]["tests"]["statistics"].get(test) for row in rows]
    at = [row["decided_at"].isoformat() for row in rows]
    return {"name": name, "limit": limit, "at": at, "values": values}


def shadow_signal(settings: Settings, drill: Drill, disturbed: Traffic) -> dict[str, Any]:
    """Log-loss of the corrupted challenger minus that of the champion, by day."""
    versions = [row["challenger"] for row in disturbed.decisions if row["challenger"]]
    served = disturbed.served
    known = served[served.label.notna() & (served.as_of > drill.since + TRAINING_TIME)]
    challenger = model_registry.load(settings, versions[0]).predict(known)
    labels = known.label.to_numpy(dtype=bool)
    worse = log_losses(labels, challenger) - log_losses(labels, known.probability.to_numpy())
    difference = pd.Series(worse, known.as_of)
    days = difference.groupby(difference.index.floor("D")).mean()
    return {
        "name": "log-loss of the challenger in shadow minus the champion's",
        "limit": 0.0,
        "at": [(day + PERIOD / 2).isoformat() for day in days.index],
        "values": days.tolist(),
    }


def false_alarms(settings: Settings, start: datetime) -> dict[str, Any]:
    """The checks of the inputs on every later day of the data, which nobody disturbed."""
    requests = load_requests(settings)
    requests = requests[requests.event_timestamp > start]
    rows = build_examples(open_feature_store(settings), requests)
    rows = rows.assign(as_of=rows.event_timestamp)
    champion = model_registry.resolve(settings, model_registry.CHAMPION)
    assert champion is not None, "the base has a champion"
    reference = model_registry.reference_data(settings, champion)
    alarms, n_days = [], 0
    for now in pd.date_range(start + 2 * PERIOD, rows.as_of.max(), freq=PERIOD):
        day = rows[(rows.as_of >= now - 3 * PERIOD) & (rows.as_of < now)]
        day = day.assign(label=day.label.where(day.outcome_known_at <= now).astype("boolean"))
        found = broken_feeds(check_inputs(day, reference, now))
        alarms += [f"{now - PERIOD:%Y-%m-%d}: {reason.text}" for reason in found]
        n_days += 1
    return {"days": n_days, "alarms": alarms}
