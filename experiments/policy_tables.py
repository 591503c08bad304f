"""The tables of the policy comparison, from its report."""

from experiments.markdown import DIFFERENCE, Report, table
from ontime.problem import INSTANCES

# Names of three policies of `make policies`.
DEFAULT = "shadow, unless clearly worse, every 7 days"
REFERENCE = "every 28 days, no gate"
FROZEN = "frozen on everything known at the start"


def policies_table(policies: Report, period: str) -> str:
    """Every policy in one period."""
    rows = [
        row
        | {f"frozen_{key}": value for key, value in row["minus_frozen"].items()}
        | {f"reference_{key}": value for key, value in row["minus_reference"].items()}
        for row in policies["rows"]
        if row["period"] == period
    ]
    columns = {
        "policy": "{policy}",
        "log-loss": "{log_loss:.4f}",
        "ECE": "{ece:.4f}",
        "cost": "{cost_per_1000:.0f}",
        "trainings": "{trainings}",
        "promoted / rejected": "{promoted} / {rejected}",
        "minus frozen": DIFFERENCE.replace("{", "{frozen_"),
        f"minus {REFERENCE}": DIFFERENCE.replace("{", "{reference_"),
    }
    return table(rows, columns)


def detection_table(policies: Report) -> str:
    """False alarms and delays of the monitoring rules."""
    columns = {
        "rule": "{rule}",
        "months": "{period}",
        "false alarms per 100 days": "{false_alarms_per_100_days:.1f}",
        "simulated changes found": "{detected} of {changes}",
        "median delay, days": "{median_delay_days:.1f}",
        "alarms on a frozen model": "{alarms}",
    }
    rows = [
        row | {"alarms": ", ".join(row["alarms_of_the_frozen_model"]) or "none"}
        for row in policies["detection"]
    ]
    return table(rows, columns)


def policies_row(policies: Report) -> str:
    """The loop, a schedule without a gate and a frozen model: a row of the README's table."""
    log_loss = {
        row["policy"]: row["log_loss"] for row in policies["rows"] if row["period"] == "all"
    }
    compared = (log_loss[policy] for policy in (DEFAULT, REFERENCE, FROZEN))
    what = f"log-loss to {policies['end'][:10]} (`make policies`): this loop / {REFERENCE} / frozen"
    return f"| {what} | {' / '.join(f'{value:.4f}' for value in compared)} |"


def policies_section(policies: Report) -> list[str]:
    return [
        f"`make policies`, {policies['start']:.10} to {policies['end']:.10}: {policies['models']} "
        f"models, one per week, shared by all policies ({policies['training_seconds']:,.0f} s of "
        f"training). Cost is per 1,000 {INSTANCES}, in false alarms. The default is: {DEFAULT}. It "
        "was chosen on the first table.",
        policies_table(policies, "choice"),
        "The months from which no choice was made:",
        policies_table(policies, "holdout"),
        "All months:",
        policies_table(policies, "all"),
        "Monitoring rules: false alarms on a model that is trained anew every week, delay after a "
        "simulated change of the calibration, and alarms on a model frozen at the start:",
        detection_table(policies),
    ]
