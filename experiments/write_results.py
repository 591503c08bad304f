"""Write docs/results.md, its pictures, and the results table of README.md from the last reports.

    python -m experiments.write_results

Every number comes from the JSON files in the reports folder. In README.md only the text between the
two marks is replaced.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from experiments.markdown import DIFFERENCE, Report, facts, table
from experiments.policy_tables import policies_section
from ontime.problem import INSTANCES
from ontime.settings import ROOT, Settings

BEGIN, END = "<!-- results: written by make results -->", "<!-- end of results -->"
COMMANDS = {  # report -> the command that writes it
    "demo": "make demo",
    "scheduled-baseline-28": "make scheduled-baseline",
    "policies": "make policies",
    "backtest": "make backtest",
    "bench": "make bench",
    "export": "make export",
    "e2e": "make e2e",
}
SECTIONS = {  # optional report -> its heading
    "policies": "Policies",
    "backtest": "Backtest",
    "bench": "Speed and memory",
    "export": "Exported model",
    "e2e": "Stack",
}
PICTURES = ("replay.png", "calibration.png")
SCORES = {
    "AUC": "{auc:.4f}",
    "PR-AUC": "{pr_auc:.4f}",
    "log-loss": "{log_loss:.4f}",
    "Brier": "{brier:.4f}",
    "ECE": "{ece:.4f}",
}


def readme_table(demo: Report, scheduled: Report) -> str:
    replay = demo["replay"]
    low, high = replay["interval"]
    values = demo | {"low": low, "high": high, "scheduled": scheduled}
    return facts(
        f"`make demo`, {replay['start'][:10]} to {replay['end'][:10]}",
        values,
        {
            "predictions over HTTP": "{replay[predictions]:,}; lost {replay[lost]}, "
            "doubled {replay[doubled]}",
            "failed requests": "{serving[failed]} of {serving[requests]:,}",
            "served features compared with the historical join": "{parity[checked]:,}; "
            "{parity[mismatched]} mismatched",
            "retrains, promotions, rejections": "{replay[retrains]}, {replay[promotions]}, "
            "{replay[rejections]}",
            "log-loss served against a model frozen on everything known at the start, "
            f"{replay['outcomes']:,} labelled {INSTANCES}": "{replay[serving_log_loss]:.4f} "
            "against {replay[frozen_log_loss]:.4f}: {replay[difference]:+.4f} "
            "[{low:+.4f}, {high:+.4f}]",
            f"log-loss of a new model every {scheduled['days']} days without a gate": ""
            "{scheduled[log_loss][scheduled]:.4f}",
        },
    )


def run_table(demo: Report) -> str:
    forms = {
        "machine": "{machine}",
        "latency of a request of up to 256 instances, p50 / p99": "{serving[p50_ms]:.0f} / "
        "{serving[p99_ms]:.0f} ms",
        "first prediction after": "{seconds[to_first_prediction]:.0f} s",
        "replay / all": "{seconds[replay]:.0f} s / {seconds[total]:.0f} s",
        "peak memory of all processes": "{peak_rss_gb:.1f} GB",
        "ECE served / frozen": "{replay[serving_ece]:.4f} / {replay[frozen_ece]:.4f}",
    }
    return facts("cost of that run", demo, forms)


def events_table(demo: Report) -> str:
    columns = {"day": "{at:.10}", "event": "{kind} {label}", "reason": "{reason}"}
    return table(demo["events"], columns)


def models_table(demo: Report) -> str:
    rows = [{"model": name} | scores for name, scores in demo["models"].items()]
    return table(rows, {"model": "{model}"} | SCORES)


def scheduled_table(scheduled: Report) -> str:
    names = {
        "served": {"difference": None},
        f"new model every {scheduled['days']} days ({scheduled['models']}), no gate": scheduled[
            "served_minus_scheduled"
        ],
        "first version kept": scheduled["scheduled_minus_frozen"],
    }
    rows = [
        {"policy": policy, "log_loss": loss} | difference
        for (policy, difference), loss in zip(
            names.items(), scheduled["log_loss"].values(), strict=True
        )
    ]
    columns = {"policy": "{policy}", "log-loss": "{log_loss:.4f}", "row above minus it": DIFFERENCE}
    return table(rows, columns)


def backtest_table(backtest: Report) -> str:
    """Every model on all months together."""
    rows = [row for row in backtest["rows"] if row["month"] == "all"]
    ece = {"ECE": "{ece:.4f} [{ece_low:.4f}, {ece_high:.4f}]"}
    return table(rows, {"model": "{model}"} | SCORES | ece | {"network minus it": DIFFERENCE})


def months_table(backtest: Report) -> str:
    """The network, its teachers and LightGBM per month, and on the holdout months together."""
    log_loss = {(row["month"], row["model"]): row["log_loss"] for row in backtest["rows"]}
    rows = [
        row | {model: log_loss[row["month"], model] for model in ("network", "teachers")}
        for row in backtest["rows"]
        if row["model"] == "lightgbm" and row["month"] != "all"
    ]
    columns = {
        "month": "{month}",
        INSTANCES: "{n:,.0f}",
        "positive rate": "{positive_rate:.3f}",
        "network": "{network:.4f}",
        "teachers": "{teachers:.4f}",
        "lightgbm": "{log_loss:.4f}",
        "network minus lightgbm": DIFFERENCE,
    }
    return table(rows, columns)


def benchmark_table(bench: Report) -> str:
    def number(value: float | None) -> str:
        if value is None:
            return "never"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"

    rows = [
        row
        | {name: number(row[name]) for name in ("ours", "beside", "ratio")}
        | {"kept": ": missed" if row["kept"] is False else ""}
        for row in bench["ratios"]
    ]
    columns = {
        "": "{what}",
        "ontime": "{ours}",
        "peer": "{beside} ({to})",
        "ratio": "{ratio}",
        "limit": "{limit:.20}{kept}",
    }
    return table(rows, columns)


def export_table(export: list[Report]) -> str:
    columns = {
        "exported model": "{what}",
        "MB": "{mb:.2f}",
        "rows/s": "{rows_per_second:,.0f}",
        "largest difference": "{max_difference:.1e}",
    }
    return table(export, columns)


def stack_table(e2e: Report) -> str:
    slowest = sorted(e2e["recovery_seconds"].items(), key=lambda item: -item[1])
    forms = {
        "`docker compose up` until a first champion serves, s": "{up_seconds}",
        "rebuild after a change of source, s": "{rebuild_seconds}",
        "image for serving / for everything else, GB": "{ontime-serving_gb} / "
        "{ontime-pipelines_gb}",
        "killed, s until healthy": ", ".join(f"{name} {seconds}" for name, seconds in slowest),
        "Redis paused / stopped, s until a 503": "{redis_pause_503_seconds} / "
        "{redis_stop_503_seconds}",
        "Postgres paused / stopped, s until a 503": "{postgres_pause_503_seconds} / "
        "{postgres_stop_503_seconds}",
        "full disk freed, s until the next response": "{disk_freed_to_answer_seconds}",
        "API started without MLflow and S3, s": "{api_restart_without_registry_seconds}",
        "everything killed, s until all is healthy": "{up_after_kill_seconds}",
    }
    return facts("`make e2e`", e2e, forms)


def results_page(reports: dict[str, Any]) -> str:
    parts = [
        "# Results",
        "Written by `make results` from the reports of the commands named below. Log-loss is in "
        "nats. Intervals are 95 %, from a cluster bootstrap by day.",
        "## Demo",
        readme_table(reports["demo"], reports["scheduled-baseline-28"]),
        run_table(reports["demo"]),
        "![Weekly log-loss of the serving model and of the frozen one](images/replay.png)",
        "Decisions of the monitoring and of the gate:",
        events_table(reports["demo"]),
        "The first version and its baselines on its test split:",
        models_table(reports["demo"]),
        "## Scheduled retraining",
        f"`make scheduled-baseline`: two other policies on the {INSTANCES} of the demo.",
        scheduled_table(reports["scheduled-baseline-28"]),
    ]
    for name, heading in SECTIONS.items():
        if name not in reports:
            section = [f"Not measured at this revision; `{COMMANDS[name]}` does."]
        elif name == "backtest":
            section = backtest_section(reports[name])
        elif name == "policies":
            section = policies_section(reports[name])
        elif name == "bench":
            losses = reports[name]["training"]["log_loss"].items()
            section = [
                "`make bench`: ratios to a peer measured in the same run.",
                benchmark_table(reports[name]),
                f"Log-loss on its test rows: {', '.join(f'{n} {v:.4f}' for n, v in losses)}.",
            ]
        else:
            section = [
                export_table(reports[name]) if name == "export" else stack_table(reports[name])
            ]
        parts += [f"## {heading}", *section]
    return "\n\n".join(parts) + "\n"


def backtest_section(backtest: Report) -> list[str]:
    months = sorted({row["month"] for row in backtest["rows"]} - {"all", "holdout"})
    return [
        f"`make backtest`, {months[0]} to {months[-1]}: each month is predicted by models fitted "
        "on everything known when it began. No choice was made on the holdout months.",
        backtest_table(backtest),
        months_table(backtest),
        "![Reliability diagram](images/calibration.png)",
    ]


def read_reports(folder: Path) -> dict[str, Any]:
    """The reports by name; those of the demo and of the scheduled baseline have to exist.

    Raises:
        FileNotFoundError: if one of these two commands was not run.
        ValueError: if they are of different replays.
    """
    for name in ("demo", "scheduled-baseline-28"):
        if not (folder / f"{name}.json").exists():
            command = COMMANDS[name]
            raise FileNotFoundError(f"{folder / name}.json does not exist: run `{command}` first")
    paths = {name: folder / f"{name}.json" for name in COMMANDS}
    reports = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    replay, scheduled = reports["demo"]["replay"], reports["scheduled-baseline-28"]
    if (scheduled["start"], scheduled["end"]) != (replay["start"], replay["end"]):
        raise ValueError(
            "the scheduled baseline must be of the demo's replay; it is from "
            f"{scheduled['start']} to {scheduled['end']}: run `make scheduled-baseline` again"
        )
    return reports


def write_results(reports_dir: Path, root: Path) -> None:
    """Write the results page, the README's table and the pictures.

    Raises:
        ValueError: if README.md has not each mark once.
    """
    reports = read_reports(reports_dir)
    readme = root / "README.md"
    text = readme.read_text()
    if (text.count(BEGIN), text.count(END)) != (1, 1):
        raise ValueError(f"{readme} must have each of the marks {BEGIN} and {END} once")
    block = readme_table(reports["demo"], reports["scheduled-baseline-28"])
    readme.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n{block}\n{END}{text.split(END)[1]}")
    images = root / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    (root / "docs" / "results.md").write_text(results_page(reports))
    for picture in PICTURES:
        if (reports_dir / picture).exists():
            shutil.copy(reports_dir / picture, images / picture)


if __name__ == "__main__":
    write_results(Settings().reports_dir, ROOT)
