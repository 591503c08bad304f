"""How features and the historical join grow with the data, on DuckDB and on Spark.

    python -m experiments.growth [--times 1 3 10 30] [--limit SECONDS] [--spark-features TIMES]
    python -m experiments.growth --source FOLDER [--limit SECONDS]

The source tables are repeated in time and in space (`SHAPES`). Each cell of the result is a process
of its own with a time limit; an engine whose part was stopped or failed is not measured on more
rows. `--source` measures ingest and features of a source of many files instead. Writes
``growth.json`` after each cell, beside the sizes of earlier runs, and from it the tables of
docs/scale.md and their picture.
"""

import argparse
import json
import os
import platform
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import psutil
import pyarrow.parquet as pq

from experiments.benchmark_data import entity_rows, repeat_rows, repeat_tables
from experiments.markdown import table
from experiments.spark_check import ENGINES, SUBMIT, measure
from ontime.features import spark_engine
from ontime.problem import VIEWS
from ontime.settings import ROOT, Settings

# Times the rows -> places, years. Data grows in both: first more places, then more years.
SHAPES = {1: (1, 1), 3: (3, 1), 10: (5, 2), 30: (10, 3)}
PARTS = ("features", "join")
MEASURED = ("rows", "seconds", "cpu_seconds", "peak_gb")
LIMIT_S = 1_800.0
ESTIMATED_ROWS = 200_000_000
CLUSTER, CLUSTER_CORES, USED_SHARE = "EMR with ten m6i.4xlarge workers", 160, 0.5
BEGIN, END = "<!-- growth: written by make growth -->", "<!-- end of growth -->"
HEADINGS = {"repeated": "The source repeated", "source": "A source of many files"}
Results = dict[str, Any]


def growth(
    settings: Settings, times: list[int], limit_s: float, spark_features: int = max(SHAPES)
) -> Iterator[Results]:
    """Measure every part on both engines, from the fewest rows to the most.

    With more than `spark_features` times the rows Spark joins features that DuckDB built, because
    its own take four times as long.
    """
    ended: set[tuple[str, str]] = set()  # (part, engine) that had no result
    root = settings.data_dir / "growth"
    for n in sorted(times):
        shutil.rmtree(root, ignore_errors=True)
        for engine in ENGINES:
            (root / engine).mkdir(parents=True)
        prepare(settings, root, *SHAPES[n])
        for part in PARTS:
            for engine in ENGINES:
                cell: Results = {"part": part, "engine": engine, "times": n}
                folder = root / engine
                above = (part, engine) == ("features", "spark") and n > spark_features
                if (part, engine) in ended or above:
                    cell["ended"] = "not tried"
                elif part == "join" and not has_features(folder):
                    cell["ended"] = "no features"
                else:
                    cell |= measure(part, engine, folder, limit_s) | n_rows(part, folder)
                if cell["ended"]:
                    ended.add((part, engine))
                yield cell
    shutil.rmtree(root, ignore_errors=True)


def prepare(settings: Settings, root: Path, places: int, years: int) -> None:
    """The repeated source tables and requests, which both engines read."""
    tables, rows = root / "tables", root / "entity_rows.parquet"
    repeat_tables(settings, tables, years, places)
    once = root / "once.parquet"
    entity_rows(settings).to_parquet(once)
    repeat_rows(once, rows, "instance_id", years, places)
    for engine in ENGINES:
        (root / engine / "tables").symlink_to(tables)
        (root / engine / "entity_rows.parquet").symlink_to(rows)


def has_features(folder: Path) -> bool:
    """True if an engine's folder has features: its own, or the equal ones of the other engine."""
    if all((folder / "features" / f"{view.name}.parquet").exists() for view in VIEWS):
        return True
    shutil.rmtree(folder / "features", ignore_errors=True)
    for other in (folder.parent / engine / "features" for engine in ENGINES):
        if all((other / f"{view.name}.parquet").exists() for view in VIEWS):
            (folder / "features").symlink_to(other)
            return True
    return False


def n_rows(part: str, folder: Path) -> Results:
    """Rows that the part read: of all source tables, or of the requests."""
    name = "entity_rows.parquet" if part == "join" else "tables/*.parquet"
    return {"rows": sum(pq.read_metadata(path).num_rows for path in sorted(folder.glob(name)))}


def source(settings: Settings, location: str, limit_s: float) -> Iterator[Results]:
    """Ingest the files, then build their features on each engine."""
    root = settings.data_dir / "growth"
    shutil.rmtree(root, ignore_errors=True)
    for engine in ENGINES:
        (root / engine).mkdir(parents=True)
    os.environ["ONTIME_SOURCE"] = location
    first = root / ENGINES[0]
    (root / ENGINES[1] / "tables").symlink_to(first / "tables")
    for part, engine in [("ingest", ENGINES[0]), *(("features", engine) for engine in ENGINES)]:
        measured = measure(part, engine, root / engine, limit_s)
        yield {"part": part, "engine": engine} | measured | n_rows(part, root / engine)
        if part == "ingest" and measured["ended"]:
            break
    shutil.rmtree(root, ignore_errors=True)


def line(cell: Results) -> str:
    times = f"{cell['times']} x" if "times" in cell else ""
    head = f"{cell['part']:<10}{cell['engine']:<8}{times:>6}"
    if "seconds" not in cell:
        return f"{head}  {cell['ended']}"
    measured = f"{cell['rows']:>13,} rows{cell['seconds']:>9.1f} s"
    measured += f"{cell['cpu_seconds']:>9.1f} CPU s{cell['peak_gb']:>7.2f} GB"
    return head + measured + (f"  {cell['ended']}" if cell["ended"] else "")


def machine() -> Results:
    load, _, _ = os.getloadavg()
    return {
        "cores": os.cpu_count(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "load": load,
        "python": platform.python_version(),
        "spark_submit": os.environ.get("PYSPARK_SUBMIT_ARGS", SUBMIT),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def draw(cells: list[Results], path: Path) -> None:
    """CPU seconds and peak memory over the repetitions, one panel per part and measure."""
    mpl.use("agg")
    sizes = sorted({cell["times"] for cell in cells})
    figure, panels = plt.subplots(2, len(PARTS), figsize=(9, 6), sharex=True)
    for column, part in enumerate(PARTS):
        for engine in ENGINES:
            done = [
                cell
                for cell in cells
                if (cell["part"], cell["engine"]) == (part, engine) and not cell["ended"]
            ]
            x = [cell["times"] for cell in done]
            for axes, key in zip(panels[:, column], ("cpu_seconds", "peak_gb"), strict=True):
                axes.plot(x, [cell[key] for cell in done], marker="o", label=engine)
        panels[0, column].set(title=part, ylim=0, ylabel="CPU seconds")
        panels[1, column].set(ylim=0, xlabel="times the source", ylabel="peak GB")
        panels[1, column].set_xticks(sizes, [str(n) for n in sizes])
    panels[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_page(report: Results, root: Path) -> None:
    """Replace what is between the marks of docs/scale.md, and draw its picture."""
    page = root / "docs" / "scale.md"
    text = page.read_text()
    if (text.count(BEGIN), text.count(END)) != (1, 1):
        raise ValueError(f"{page} must have each of the marks {BEGIN} and {END} once")
    parts = [section(report[name], heading) for name, heading in HEADINGS.items() if name in report]
    if "repeated" in report:
        parts.append(estimate(report["repeated"]))
        draw(report["repeated"]["cells"], root / "docs" / "images" / "growth.png")
        parts.append("![CPU seconds and peak memory over the size](images/growth.png)")
    block = "\n\n".join(parts)
    page.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n{block}\n{END}{text.split(END)[1]}")


def section(report: Results, heading: str) -> str:
    """What was measured where, and one row per cell."""
    about = report["machine"] | {"limit_s": report["limit_s"], "heading": heading}
    sentence = (
        "{heading}: {cores} cores, {memory_gb:.0f} GB, load {load:.0f} at the end, "
        "{measured_at}; at most {limit_s:.0f} s per cell; Spark with `{spark_submit}`."
    ).format_map(about)
    rows = []
    for cell in report["cells"]:
        done = "seconds" in cell and not cell["ended"]
        rate = f"{cell['cpu_seconds'] / cell['rows'] * 1e6:.1f}" if done else ""
        rows.append({"times": ""} | dict.fromkeys(MEASURED) | cell)
        rows[-1] |= {"rate": rate, "ended": cell["ended"] or "finished"}
    columns = {
        "part": "{part}",
        "engine": "{engine}",
        "times": "{times}",
        "rows": "{rows:,}",
        "s": "{seconds:.0f}",
        "CPU s": "{cpu_seconds:.0f}",
        "CPU µs per row": "{rate}",
        "peak GB": "{peak_gb:.1f}",
        "": "{ended}",
    }
    return f"{sentence}\n\n{table(rows, columns)}"


def estimate(report: Results) -> str:
    """Hours on a cluster for many more rows, from the largest size that Spark finished."""
    hours = {}
    for part in PARTS:
        done = [
            cell for cell in report["cells"]
            if (cell["part"], cell["engine"]) == (part, "spark") and not cell["ended"]
        ]  # fmt: skip
        if done:
            last = max(done, key=lambda cell: cell["times"])
            cpu_seconds = last["cpu_seconds"] / last["rows"] * ESTIMATED_ROWS
            hours[f"{part}, from {last['times']} x"] = (
                cpu_seconds / CLUSTER_CORES / USED_SHARE / 3600
            )
    each = "; ".join(f"{part}: {value:.1f} hours" for part, value in hours.items())
    return (
        f"An estimate on paper, for {ESTIMATED_ROWS:,} rows on {CLUSTER} ({CLUSTER_CORES} cores): "
        f"{each or 'Spark finished nothing'}. It assumes the CPU time per row of the largest size "
        f"that was measured, and that {USED_SHARE:.0%} of the cluster's cores do this work: the "
        "others wait for the network, for the largest partition, and for S3."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds of one cell")
    parser.add_argument(
        "--spark-features", type=int, default=max(SHAPES), help="largest size that Spark builds"
    )
    parser.add_argument("--source", help="folder or s3:// prefix of source files, to measure that")
    options = parser.parse_args()
    settings = Settings()
    settings.require_local_tables("make growth")
    spark_engine.check_installed()
    if options.source:
        key, measured = "source", source(settings, options.source, options.limit)
    else:
        key, measured = (
            "repeated",
            growth(settings, options.times, options.limit, options.spark_features),
        )
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    path = settings.reports_dir / "growth.json"
    report: Results = json.loads(path.read_text()) if path.exists() else {}
    cells = [] if options.source else other_sizes(report, options.times)
    for cell in measured:
        print(line(cell), flush=True)
        cells = sorted([*cells, cell], key=lambda cell: int(cell.get("times", 1)))
        report[key] = {"limit_s": options.limit, "machine": machine(), "cells": cells}
        path.write_text(json.dumps(report, indent=1))
    write_page(report, ROOT)


def other_sizes(report: Results, times: list[int]) -> list[Results]:
    """The cells of an earlier report that are not measured again."""
    earlier = report.get("repeated", {"cells": []})["cells"]
    return [cell for cell in earlier if cell["times"] not in times]


if __name__ == "__main__":
    main()
