"""docs/drills.md from ``drills.json``, the report of `make drills`."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from experiments.markdown import Report, table

PICTURES = "images/drills"
DAILY = """\
The feature tables, a first model and the weeks from {start} to {forked_at} are made once. Each
drill continues that replay in a copy of the data folder into which the incident was written; the
API, training and the gate know nothing of it. **Daily in a drill:** monitoring, which checks the
last day's features and labels, runs the sequential tests on 28 days and decides. **Weekly:** the
scheduled training, the gate, and drift. "Noticed" is the first monitoring run that names the
incident. The command fails if one is after its limit; CI runs two drills in a short form."""
# Kind of the fault -> what the system does by itself, what is left to a person.
KINDS = {
    "StoppedView": (
        "Features older than their time to live reach the model as missing, which it knows from "
        "training (dropout of whole feature groups), and every response names them.",
        "Repair the source, then run `make features`.",
    ),
    "StoppedLabels": (
        "Serving needs no label. Outcomes that are reported afterwards are scored then.",
        "Find the client that reports to `POST /outcomes`, and have it report what is missing.",
    ),
    "ChangedUnit": (
        "The values are within their allowed range, so that no schema rejects them: they are "
        "served as they are, and a training that is due before the change is noticed reads them.",
        "Convert the unit where the source is read, and build the features again: those of the "
        "incident stay wrong in the history until then.",
    ),
    "CorruptedLabels": (
        "The challenger scores live traffic in shadow, and no response has its probabilities. The "
        "gate compares them with the outcomes that were reported to the API.",
        "Compare the labels in the training data with the reported outcomes: two copies of one "
        "fact.",
    ),
    "ChangedRegime": (
        "The alert starts a training. The gate evaluates its model after a week in shadow.",
        "Nothing, if the new model is promoted.",
    ),
}


def drills_page(report: Report) -> str:
    drills = report["drills"]
    parts = [
        "# Drills",
        "Written by `make results` from the report of `make drills`, which plays each incident "
        "through the whole system. The pictures show the log-loss per day beside what would have "
        "been, and the value that noticed the incident with its limit.",
        DAILY.format(start=_day(report["start"]), forked_at=_day(report["forked_at"])),
        summary_table(drills),
        false_alarms_text(report),
    ]
    for drill in drills:
        parts += section(drill)
    return "\n\n".join(parts) + "\n"


def summary_table(drills: Iterable[Report]) -> str:
    rows = [
        drill | {"cost": _cost(drill), "link": f"[{drill['title']}](#{_anchor(drill['title'])})"}
        for drill in drills
    ]
    columns = {
        "drill": "{link}",
        "noticed after": "{noticed_after_hours:.0f} h",
        "limit": "{limit_hours} h",
        "log-loss it cost": "{cost}",
    }
    return table(rows, columns)


def false_alarms_text(report: Report) -> str:
    calm, alarms = report["calm"], report["calm"]["alarms"]
    found = "; ".join(alarms) if alarms else "none"
    return (
        "**False alarms.** The daily checks of features and labels, run on each of the "
        f"{calm['days']} days of the data after {_day(report['start'])}, raise {len(alarms)}: "
        f"{found}. In the undisturbed replay they raised {len(report['undisturbed_alerts'])}. The "
        "rates of the sequential tests are in [results.md](results.md)."
    )


def section(drill: Report) -> list[str]:
    by_itself, person = KINDS[drill["kind"]]
    noticed = (
        f"after {drill['noticed_after_hours']:.0f} hours, on {_day(drill['noticed_at'])} (limit "
        f"{drill['limit_hours']} hours)"
        if drill["noticed_at"]
        else "not at all"
    )
    return [
        f"## {drill['title']}",
        f"{drill['text']} From {_day(drill['since'])} to {_day(drill['until'])}.",
        f"![{drill['title']}]({PICTURES}/{drill['name']}.png)",
        f"- **Noticed** {noticed}.",
        f"- **A person is told:** {'; '.join(drill['told'])}. {told_where(drill['kind'])}",
        f"- **The system by itself:** {by_itself} {reactions(drill)}",
        f"- **A person does:** {person}",
        f"- **It cost** {_cost(drill)}{_money(drill)}",
    ]


def told_where(kind: str) -> str:
    """Where a person reads it."""
    if kind == "CorruptedLabels":
        return "It is the gate's reason: in the decision log, on the loop's page and in MLflow."
    return (
        "It is a reason of the decision: in the log, on the loop's page and in Prefect; "
        "Prometheus has its value."
    )


def reactions(drill: Report) -> str:
    """What monitoring held back and started, as sentences."""
    said = []
    if drill["kind"] == "StoppedView":
        said.append(
            f"{drill['stale_responses']:,} responses of the period named a stale feature, "
            f"{drill['stale_responses_undisturbed']:,} in the undisturbed replay."
        )
    if held := [_day(each) for each in drill["held_back"]]:
        said.append(f"The scheduled training is held back on {', '.join(held)}.")
    words = {"retrain": "trained", "promoted": "promoted", "rejected": "rejected"}
    events = [
        f"{event['label']} {words[event['kind']]} on {_day(event['at'])}"
        for event in drill["events"]
        if event["kind"] in words and event["label"]
    ]
    if events:
        said.append(f"Models: {', '.join(events)}.")
    return " ".join(said)


def _cost(drill: Report) -> str:
    cost = drill["cost"]
    if cost is None:
        return "nothing that was measured: no model was trained upon it"
    return "{difference:+.4f} [{low:+.4f}, {high:+.4f}]".format(**cost)


def _money(drill: Report) -> str:
    cost = drill["cost"]
    if cost is None:
        return "."
    return (
        f" nats of log-loss against {drill['against']} ({cost['n']:,} labelled predictions of the "
        f"same period, 95 % interval); decisions cost {cost['per_1000']:.0f} per 1,000 against "
        f"{cost['per_1000_other']:.0f}."
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _day(text: Any) -> str:
    return f"{datetime.fromisoformat(text):%-d %B %Y}"
