"""Write the figures of the last demo into README.md, and its picture into docs/.

    python -m pipelines.readme

The README's numbers stand between two marks and come from ``demo.json`` and ``yardstick-28.json``
in ``var/reports`` alone.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from ontime.settings import ROOT, Settings
from pipelines.story import SCORES

BEGIN, END = "<!-- figures: written by `make readme` -->", "<!-- end of figures -->"


def figures(report: dict[str, Any], yardstick: dict[str, Any]) -> str:
    """The figures of a demo and of its yardstick as Markdown."""
    replay, serving, parity = report["replay"], report["serving"], report["parity"]
    seconds = report["seconds"]
    low, high = replay["interval"]
    lines = [
        f"One run of `make demo` ({replay['start'][:10]} to {replay['end'][:10]}, "
        f"{report['machine']}):",
        "",
        "| | |",
        "|---|---|",
        f"| predictions over HTTP | {replay['predictions']:,}, lost {replay['lost']}, "
        f"doubled {replay['doubled']} |",
        f"| failed requests | {serving['failed']} of {serving['requests']:,} |",
        f"| served features checked against the historical join | {parity['checked']:,}, "
        f"mismatched {parity['mismatched']} |",
        f"| retrains, promotions, refusals | {replay['retrains']}, {replay['promotions']}, "
        f"{replay['refusals']} |",
        f"| log-loss served / model frozen at the start | {replay['serving_log_loss']:.4f} / "
        f"{replay['frozen_log_loss']:.4f} |",
        f"| paired difference, 95 % interval over days | {replay['difference']:+.4f} "
        f"[{low:+.4f}, {high:+.4f}] |",
        f"| log-loss of a new model every {yardstick['days']} days, without a gate | "
        f"{yardstick['log_loss']['yardstick']:.4f} |",
        f"| latency of a batch, p50 / p99 | {serving['p50_ms']:.0f} / {serving['p99_ms']:.0f} ms |",
        f"| seconds, to the first prediction / in all | {seconds['to_first_prediction']:.0f} / "
        f"{seconds['total']:.0f} |",
        f"| peak memory | {report['peak_rss_gb']:.1f} GB |",
        "",
        "The first model against its baselines, on the same weeks that none of them has seen:",
        "",
        "| model | AUC | PR-AUC | log-loss | Brier | ECE |",
        "|---|---|---|---|---|---|",
    ]
    for name, scores in report["models"].items():
        cells = (scores[key] for key in SCORES)
        lines.append(f"| {name} | " + " | ".join(f"{value:.4f}" for value in cells) + " |")
    return "\n".join(lines)


def write(readme: Path, reports: Path, docs: Path) -> None:
    """Replace what stands between the marks.

    Raises:
        ValueError: if the README lacks its marks, or the two are of different replays.
        FileNotFoundError: if no demo, or no yardstick, was run.
    """
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme} must hold the marks {BEGIN} and {END}")
    report, yardstick = (
        json.loads((reports / name).read_text()) for name in ("demo.json", "yardstick-28.json")
    )
    if (yardstick["start"], yardstick["end"]) != (
        report["replay"]["start"],
        report["replay"]["end"],
    ):
        raise ValueError("the yardstick is of another replay than the demo: `make yardstick` again")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{figures(report, yardstick)}\n{END}{after}")
    shutil.copy(reports / "replay.png", docs / "replay.png")


if __name__ == "__main__":
    write(ROOT / "README.md", Settings().reports_dir, ROOT / "docs")
