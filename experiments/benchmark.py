"""Benchmark: this project and a peer, measured in one run on one machine, as ratios.

    python -m experiments.benchmark [--times 1 3 10]

`benchmark_models`: training against an ordinary PyTorch loop and LightGBM, scoring against
LightGBM, a retrain and a forward pass against their limits. `benchmark_shards`: training from
shards against training in memory. `benchmark_data`: feature tables and historical join against
plain DuckDB. Each part runs in its own process, so that its peak memory is its own. This process
imports neither pandas nor torch: a process starts with the peak memory of its parent. Results:
``bench.json``.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ontime.settings import ROOT, Settings

MAX_GB = 8.0
MAX_RETRAIN_S = 60.0
MAX_FORWARD_MS = {"1": 1.0, "100": 4.0}  # rows -> of one forward pass
DATA_PARTS = ("features", "plain features", "join", "chained join", "narrow join")
JOINS = DATA_PARTS[2:]
TRAININGS = ("memory", "shards")
Results = dict[str, Any]


def run_part(module: str, data_dir: Path, *arguments: str) -> Results:
    """The JSON that a module prints last, run in its own process on a data folder."""
    print(f"  {module} {' '.join(arguments)}", flush=True)
    # The default busy-waiting of OpenMP: the Makefile's limit is for loaded machines.
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT,
        env=environment | {"ONTIME_DATA_DIR": str(data_dir)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    results: Results = json.loads(done.stdout.splitlines()[-1])
    return results


def benchmark(times: list[int]) -> Results:
    """Measure everything, the data parts on the source repeated that many times.

    Raises:
        ValueError: if two joins of the same rows differ in a cell, or the tables are on S3.
    """
    settings = Settings()
    settings.require_local_tables("make bench")
    report: Results = run_part("benchmark_models", settings.data_dir)
    report |= {"data": [], "shards": []}
    for n in sorted(times):
        with TemporaryDirectory(prefix="bench-", dir=settings.data_dir) as scratch:
            report["shards"].append(train_on_shards(settings.data_dir, Path(scratch), n))
    for n in sorted(times):
        # In the data folder, because /tmp is memory on some machines.
        with TemporaryDirectory(prefix="bench-", dir=settings.data_dir) as scratch:
            tables = ("--times", str(n), "--into", f"{scratch}/tables")
            run_part("benchmark_data", settings.data_dir, "tables", *tables)
            row: Results = {
                part: run_part("benchmark_data", Path(scratch), part) for part in DATA_PARTS
            }
        if len({row[part]["digest"] for part in JOINS}) > 1:
            raise ValueError(f"all joins must return equal cells; at {n} x they differ: {row}")
        report["data"].append({"times": n} | row)
    report["ratios"] = ratios(report)
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    path = settings.reports_dir / "bench.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}  # `serving`, by bench-serving
    path.write_text(json.dumps(earlier | report, indent=1))
    print_ratios(report)
    return report


def train_on_shards(data_dir: Path, scratch: Path, times: int) -> Results:
    """Both ways to train on the examples repeated that many times."""
    folder = str(scratch / "shards")
    written = run_part("benchmark_shards", data_dir, "write", folder, "--times", str(times))
    return {"times": times, "rows": written["rows"]} | {
        part: run_part("benchmark_shards", data_dir, part, folder) for part in TRAININGS
    }


def ratios(report: Results) -> list[Results]:
    """One row per comparison: our value, the peer's value, their ratio, and its limit."""
    training, scoring, data = report["training"], report["scoring"], report["data"]
    speed, ordinary = training["rows_per_second"], training["ordinary_rows_per_second"]
    reached, boosted = training["seconds_to_lightgbm_quality"], training["lightgbm_seconds"]
    frame, lightgbm_frame = scoring["rows_per_second"], scoring["lightgbm_rows_per_second"]
    array, lightgbm_array = (
        scoring["tensor_rows_per_second"],
        scoring["lightgbm_array_rows_per_second"],
    )
    rows = [
        ratio("training, rows/s", speed, "ordinary loop", ordinary, at_least=5),
        ratio("to LightGBM's log-loss, s", reached, "LightGBM", boosted, at_most=1),
        ratio("scoring a frame, rows/s", frame, "LightGBM", lightgbm_frame, at_least=10),
        ratio("scoring arrays, rows/s", array, "LightGBM", lightgbm_array),
    ]
    retrain, forward = report["retraining"], scoring["forward_ms"]
    what = f"retrain on {retrain['rows']:,} rows, s"
    rows.append(ratio(what, retrain["seconds"], "limit", MAX_RETRAIN_S, at_most=1))
    rows += [
        ratio(f"forward pass, rows: {n}, ms", forward[n], "limit", limit, at_most=1)
        for n, limit in MAX_FORWARD_MS.items()
    ]
    for row in report["shards"]:
        memory, shards = (row[part]["rows_per_second"] for part in TRAININGS)
        n = f"{row['times']} x"
        rows.append(ratio(f"training from shards, {n}, rows/s", shards, "in memory", memory))
    least, most = report["shards"][0], report["shards"][-1]
    for part, limit in zip(TRAININGS, (math.inf, 1.25), strict=True):
        what = f"peak GB, {part}, {most['times']} x"
        first, last = (row[part]["peak_gb"] for row in (least, most))
        rows.append(ratio(what, last, f"at {least['times']} x", first, at_most=limit))
    for row in data:
        seconds = {part: row[part]["seconds"] for part in DATA_PARTS}
        plain = seconds["plain features"]
        fastest = min(seconds["chained join"], seconds["narrow join"])
        n = f"{row['times']} x"
        rows += [
            ratio(f"features, {n}, s", seconds["features"], "plain DuckDB", plain),
            ratio(f"join, {n}, s", seconds["join"], "faster statement", fastest, at_most=2.5),
        ]
    for part in ("features", "join"):
        first, last = (row[part]["seconds"] / row["times"] for row in (data[0], data[-1]))
        peak = max(row[part]["peak_gb"] for row in data)
        what = f"{part}, s per repetition, {data[-1]['times']} x"
        rows += [
            ratio(what, last, f"at {data[0]['times']} x", first, at_most=1.25),
            ratio(f"{part}, peak GB", peak, "limit", MAX_GB, at_most=1),
        ]
    return rows


def ratio(
    what: str,
    ours: float | None,
    to: str,
    beside: float,
    at_least: float = 0.0,
    at_most: float = math.inf,
) -> Results:
    """``ours`` is None if the quality was never reached."""
    value = None if ours is None else ours / beside
    limit = f"at least {at_least:g}" if at_least else f"at most {at_most:g}"
    limited = at_least > 0 or at_most < math.inf
    return {
        "what": what,
        "ours": ours,
        "to": to,
        "beside": beside,
        "ratio": value,
        "limit": limit if limited else None,
        "kept": (value is not None and at_least <= value <= at_most) if limited else None,
    }


def print_ratios(report: Results) -> None:
    print(f"\n{'':<36}{'ours':>12}{'peer':>12}{'ratio':>8}")
    for row in report["ratios"]:
        ours, value = ("never" if row[k] is None else f"{row[k]:,.2f}" for k in ("ours", "ratio"))
        kept = {None: "", True: row["limit"], False: f"{row['limit']}: MISSED"}[row["kept"]]
        numbers = f"{ours:>12}{row['beside']:>12,.2f}{value:>8}"
        print(f"{row['what']:<36}{numbers}  {row['to']:<18}{kept}")
    losses = report["training"]["log_loss"].items()
    print("log-loss on the test rows: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 3, 10])
    benchmark(parser.parse_args().times)


if __name__ == "__main__":
    main()
