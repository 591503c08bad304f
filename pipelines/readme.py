"""Write the figures of the last runs into README.md, and their pictures into docs/.

    python -m pipelines.readme

The README's numbers stand between marks and come from ``demo.json`` and ``yardstick-28.json``,
``rolling.json``, ``bench.json``, ``export.json`` and ``e2e.json`` in ``var/reports`` alone.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from ontime.settings import ROOT, Settings
from pipelines.story import SCORES

BEGIN, END = "<!-- {}: written by `make readme` -->", "<!-- end of {} -->"


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


def quality(report: dict[str, Any]) -> str:
    """The rolling origin as Markdown: every model on all months, and the network by month."""
    rows = report["rows"]
    by_key = {(row["month"], row["model"]): row for row in rows}
    months = sorted({row["month"] for row in rows} - {"all", "untouched"})
    lines = [
        f"`make rolling`, {months[0]} to {months[-1]}, {by_key['all', 'network']['n']:,.0f} "
        "flights. Each month is judged with models of all that was known when it began:",
        "",
        "| model | AUC | PR-AUC | log-loss | Brier | ECE | network minus it, in log-loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in rows if row["month"] == "all"):
        cells = (f"{row[key]:.4f}" for key in ("auc", "pr_auc", "log_loss", "brier"))
        ece = f"{row['ece']:.4f} [{row['ece_low']:.4f}, {row['ece_high']:.4f}]"
        lines.append(f"| {row['model']} | {' | '.join(cells)} | {ece} | {_difference(row)} |")
    lines += [
        "",
        "| month | late | network | teachers | lightgbm | network minus lightgbm |",
        "|---|---|---|---|---|---|",
    ]
    untouched = ["untouched"] if ("untouched", "network") in by_key else []
    for month in [*months, *untouched]:
        ours, taught_by, theirs = (
            by_key[month, name] for name in ("network", "teachers", "lightgbm")
        )
        losses = " | ".join(f"{row['log_loss']:.4f}" for row in (ours, taught_by, theirs))
        late = f"{ours['late_share']:.3f}"
        lines.append(f"| {month} | {late} | {losses} | {_difference(theirs)} |")
    return "\n".join(lines)


def _difference(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    return f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def speed(bench: dict[str, Any], export: list[dict[str, Any]]) -> str:
    """Ratios of one run, and the exported programs, as Markdown."""
    lines = ["| `make bench` | ours | beside it | ratio | limit |", "|---|---|---|---|---|"]
    for row in bench["ratios"]:
        ours, value = ("never" if row[k] is None else _number(row[k]) for k in ("ours", "ratio"))
        kept = {None: "", True: row["limit"], False: f"{row['limit']}: missed"}[row["kept"]]
        beside = f"{_number(row['beside'])} ({row['to']})"
        lines.append(f"| {row['what']} | {ours} | {beside} | {value} | {kept} |")
    losses = ", ".join(f"{n} {v:.4f}" for n, v in bench["training"]["log_loss"].items())
    lines += ["", f"Log-loss on unseen weeks in that run: {losses}.", ""]
    lines += ["| `make export` | MB | rows/s | largest difference |", "|---|---|---|---|"]
    lines += [
        f"| {row['what']} | {row['mb']:.2f} | {row['rows_per_second']:,.0f} | "
        f"{row['max_difference']:.1e} |"
        for row in export
    ]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def stack(measured: dict[str, Any]) -> str:
    """What the test of the compose stack measured, as Markdown."""
    recovery = measured["recovery_seconds"].items()
    slowest = sorted(recovery, key=lambda item: -item[1])
    rows = {
        "up with built images, to a first champion that serves, s": measured["up_seconds"],
        "built again after a change of source, s": measured["rebuild_seconds"],
        "image that serves / that does everything else, GB": " / ".join(
            str(measured[f"ontime-{name}_gb"]) for name in ("serving", "pipelines")
        ),
        "killed, s until healthy again": ", ".join(f"{name} {s}" for name, s in slowest),
        "Redis frozen / gone, s until a 503": " / ".join(
            str(measured[f"redis_{how}_503_seconds"]) for how in ("pause", "stop")
        ),
        "Postgres frozen / gone, s until a 503": " / ".join(
            str(measured[f"postgres_{how}_503_seconds"]) for how in ("pause", "stop")
        ),
        "room on a full disk, s until the next answer": measured["disk_freed_to_answer_seconds"],
        "API up without MLflow and S3, s": measured["api_restart_without_registry_seconds"],
        "everything killed, s until all is up": measured["up_after_kill_seconds"],
    }
    lines = ["| `make e2e` | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
    return "\n".join(lines)


def write(readme: Path, reports: Path, docs: Path) -> None:
    """Replace what stands between each pair of marks.

    Raises:
        ValueError: if the README lacks its marks, or demo and yardstick are of different replays.
        FileNotFoundError: if one of the commands was not run.
    """
    names = ("demo", "yardstick-28", "rolling", "bench", "export", "e2e")
    found = {name: json.loads((reports / f"{name}.json").read_text()) for name in names}
    report, yardstick = found["demo"], found["yardstick-28"]
    replayed = (report["replay"]["start"], report["replay"]["end"])
    if (yardstick["start"], yardstick["end"]) != replayed:
        raise ValueError("the yardstick is of another replay than the demo: `make yardstick` again")
    blocks = {
        "figures": figures(report, yardstick),
        "quality": quality(found["rolling"]),
        "speed": speed(found["bench"], found["export"]),
        "stack": stack(found["e2e"]),
    }
    text = readme.read_text()
    for name, block in blocks.items():
        begin, end = BEGIN.format(name), END.format(name)
        if begin not in text or end not in text:
            raise ValueError(f"{readme} must hold the marks {begin} and {end}")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{block}\n{end}{rest.split(end)[1]}"
    readme.write_text(text)
    for picture in ("replay.png", "calibration.png"):
        shutil.copy(reports / picture, docs / picture)


if __name__ == "__main__":
    write(ROOT / "README.md", Settings().reports_dir, ROOT / "docs")
