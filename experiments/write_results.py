"""Write docs/results.md, docs/drills.md, their pictures, and README's table from the last reports.

    python -m experiments.write_results

Every number comes from the JSON files in the reports folder. What has no report there was measured
elsewhere and stays as it is. In README.md only the text between the two marks is replaced.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from experiments.drill_page import PICTURES as DRILL_PICTURES
from experiments.drill_page import drills_page
from experiments.markdown import Report
from experiments.policy_tables import policies_row, policies_section
from experiments.results_tables import (
    attack_table,
    backtest_row,
    backtest_table,
    benchmark_table,
    demo_table,
    events_table,
    export_table,
    feature_groups_table,
    features_table,
    models_table,
    months_table,
    recovery_table,
    run_table,
    serving_ratios,
    serving_table,
    slices_table,
    stack_table,
)
from ontime.problem import INSTANCES
from ontime.settings import ROOT, Settings

BEGIN, END = "<!-- results: written by make results -->", "<!-- end of results -->"
COMMANDS = {  # report -> the command that writes it
    "demo": "make demo",
    "policies": "make policies",
    "backtest": "make backtest",
    "feature_costs": "make costs",
    "bench": "make bench",
    "serving": "make bench-serving",
    "export": "make export",
    "e2e": "make e2e",
    "attack": "make attack",
}
SECTIONS = {  # report -> its heading
    "demo": "Demo",
    "policies": "Policies",
    "backtest": "Backtest",
    "feature_costs": "Features: benefit and cost",
    "bench": "Speed and memory",
    "serving": "Serving",
    "export": "Exported model",
    "e2e": "Stack",
    "attack": "Attack",
}
BACKTEST_PERIODS = {
    "choice": "The months before the holdout, on which choices were made:",
    "holdout": "The holdout months, on which no choice was made:",
    "all": "All months:",
}
PICTURES = ("replay.png", "calibration.png", "serving.png")
ROWS = {"policies": policies_row, "backtest": backtest_row}  # of the README's table


def readme_table(reports: dict[str, Any], old: str) -> str:
    """The README's table: a part of each of three reports, or the old part where there is none."""
    lines: dict[str, list[str]] = {name: [] for name in ("demo", *ROWS)}
    for line in old.strip().splitlines():
        names = [name for name in ROWS if f"`{COMMANDS[name]}`" in line]
        lines[names[0] if names else "demo"].append(line)
    if "demo" in reports:
        lines["demo"] = [demo_table(reports["demo"])]
    for name in ROWS.keys() & reports.keys():
        lines[name] = [ROWS[name](reports[name])]
    return "\n".join(line for part in lines.values() for line in part)


def results_page(reports: dict[str, Any], old: str) -> str:
    """The page of results; a section without a report is that of the old page."""
    parts = [
        "# Results",
        "Written by `make results` from the reports of the commands named below. Log-loss is in "
        "nats. Intervals are 95 %, from a cluster bootstrap by day.",
    ]
    earlier = dict(part.split("\n\n", 1) for part in re.split("^## ", old, flags=re.M)[1:])
    for name, heading in SECTIONS.items():
        if name not in reports:
            text = earlier.get(heading, f"Not measured; `{COMMANDS[name]}` does.")
            section = [text.strip()]
        elif name == "demo":
            section = demo_section(reports[name])
        elif name == "policies":
            section = policies_section(reports[name])
        elif name == "backtest":
            section = backtest_section(reports[name])
        elif name == "feature_costs":
            section = feature_costs_section(reports[name])
        elif name == "bench":
            losses = reports[name]["training"]["log_loss"].items()
            section = [
                "`make bench`: ratios to a peer measured in the same run.",
                benchmark_table(reports[name]),
                f"Log-loss on its test rows: {', '.join(f'{n} {v:.4f}' for n, v in losses)}.",
            ]
        elif name == "serving":
            section = [
                "`make bench-serving`: all servers in turns; medians. Ours is one process with its "
                "features and its log in SQLite and no challenger in shadow, unless its name says "
                "otherwise.",
                serving_ratios(reports[name]),
                serving_table(reports[name]),
                "![Requests per second](images/serving.png)",
            ]
        elif name == "e2e":
            section = [
                stack_table(reports[name]),
                "Each service is killed, frozen for seconds, and its disk filled, while clients "
                "predict. Seconds until it works again:",
                recovery_table(reports[name]),
            ]
        elif name == "attack":
            section = [attack_table(reports[name])]
        else:
            section = [export_table(reports[name])]
        parts += [f"## {heading}", *section]
    return "\n\n".join(parts) + "\n"


def demo_section(demo: Report) -> list[str]:
    return [
        demo_table(demo),
        run_table(demo),
        "![Weekly log-loss of the serving model and of the frozen one](images/replay.png)",
        "Decisions of the monitoring and of the gate:",
        events_table(demo),
        "The first version and its baselines on its test split:",
        models_table(demo),
    ]


def backtest_section(backtest: Report) -> list[str]:
    found = {row["month"] for row in backtest["rows"]}
    months = sorted(found - BACKTEST_PERIODS.keys())
    tables = [
        part
        for period, text in BACKTEST_PERIODS.items()
        if period in found
        for part in (text, backtest_table(backtest, period))
    ]
    return [
        f"`make backtest`, {months[0]} to {months[-1]}: each month is predicted by models fitted "
        "on everything known when it began. Network, teachers and LightGBM are fitted with three "
        "seeds, and their losses are averaged. `lightgbm` stops early on the last week; "
        "`lightgbm_aggregates` is refitted with it and bagged over the seeds; "
        "`lightgbm_refit_bagged` is that without the inputs in `ontime.problem.AGGREGATES`.",
        *tables,
        "Log-loss by month:",
        months_table(backtest),
        "By slice, all months:",
        slices_table(backtest),
        "![Reliability diagram](images/calibration.png)",
    ]


def feature_costs_section(costs: Report) -> list[str]:
    idle = [f"`{row['feature']}`" for row in costs["features"] if row["low"] <= 0]
    return [
        f"`make costs`, version {costs['version']} on {costs['rows']:,} labelled {INSTANCES} of "
        f"{costs['start']:.10} to {costs['end']:.10}, which it was not trained on. The benefit of "
        "a group is the mean Shapley value of the log-loss reduction; a group computed from the "
        "request costs no storage. One SQL file builds a view, so that cost is per group.",
        feature_groups_table(costs),
        f"Of {len(costs['features'])} features {len(idle)} have no benefit above the noise: "
        f"{', '.join(idle) or 'none'}. A feature whose content another one has too is among them.",
        "<details><summary>Every feature</summary>",
        features_table(costs),
        "</details>",
    ]


def read_reports(folder: Path) -> dict[str, Any]:
    """The reports that exist, by name."""
    paths = {name: folder / f"{name}.json" for name in COMMANDS}
    reports = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    bench = reports.pop("bench", {})  # the file of two commands
    if "ratios" in bench:
        reports["bench"] = bench
    if "serving" in bench:
        reports["serving"] = bench["serving"]
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
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{readme_table(reports, old)}\n{END}{after}")
    images = root / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    page = root / "docs" / "results.md"
    page.write_text(results_page(reports, page.read_text() if page.exists() else ""))
    for picture in PICTURES:
        if (reports_dir / picture).exists():
            shutil.copy(reports_dir / picture, images / picture)
    write_drills(reports_dir, root / "docs")


def write_drills(reports_dir: Path, docs: Path) -> None:
    """Write docs/drills.md and its pictures, if there is a report of the drills."""
    path = reports_dir / "drills.json"
    if not path.exists():
        return
    report = json.loads(path.read_text())
    (docs / "drills.md").write_text(drills_page(report))
    (docs / DRILL_PICTURES).mkdir(parents=True, exist_ok=True)
    for drill in report["drills"]:
        name = f"{drill['name']}.png"
        shutil.copy(reports_dir / "drills" / name, docs / DRILL_PICTURES / name)


if __name__ == "__main__":
    write_results(Settings().reports_dir, ROOT)
