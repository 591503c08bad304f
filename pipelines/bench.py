"""Bench: ratios against a peer, both measured in the same run on the same machine.

    python -m pipelines.bench [--times 1 3 10]

`pipelines.bench_models`: training against the ordinary loop and LightGBM, scoring against LightGBM.
`pipelines.bench_data`: features and historical join against plain DuckDB. Each measurement is a
process of its own, so that its peak of memory is its own; and this one stays small, because a
process inherits the peak of the one that starts it. Written to ``var/reports/bench.json``, each
figure with what it is a ratio to.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ontime.settings import ROOT, Settings

MOST_GB = 8.0
Figures = dict[str, Any]


DATA_PARTS = ("features", "plain features", "join", "chained join", "narrow join")
JOINS = DATA_PARTS[2:]


def measure(part: str, times: int, into: Path) -> Figures:
    """What one process does."""
    from pipelines import bench_data, bench_models

    parts: dict[str, Callable[[], Figures]] = {
        "models": bench_models.models,
        "years": lambda: bench_data.write_years(Settings().tables_dir, into, times),
        "features": lambda: bench_data.features(times),
        "plain features": lambda: bench_data.plain_features(times),
        "join": bench_data.join,
        "chained join": bench_data.chained_join,
        "narrow join": bench_data.narrow_join,
    }
    return parts[part]()


def measured(part: str, times: int, var: Path, into: Path = Path()) -> Figures:
    """The figures of one part, run in a process of its own."""
    print(f"  {part}, {times} x", flush=True)
    # Elsewhere idle threads give their core away soon; here nobody else is meant to need it.
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-m", "pipelines.bench", "--part", part, "--times", str(times)]
    done = subprocess.run(
        [*command, "--into", str(into)],
        cwd=ROOT,
        env=environment | {"ONTIME_VAR": str(var)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def bench(times: list[int]) -> Figures:
    """Measure everything.

    Raises:
        ValueError: if two joins of the same rows are not equal cell by cell: then no time counts.
    """
    settings = Settings()
    report: Figures = measured("models", 1, settings.var) | {"data": []}
    for n in sorted(times):
        # Not below /tmp, which is memory on some machines.
        with TemporaryDirectory(prefix="bench-", dir=settings.var) as scratch:
            var = Path(scratch)
            measured("years", n, settings.var, into=var / "tables")
            row: Figures = {part: measured(part, n, var) for part in DATA_PARTS}
        if len({row[part]["digest"] for part in JOINS}) > 1:
            raise ValueError(f"at {n} x the year the joins differ: {row}")
        report["data"].append({"times": n} | row)
    report["ratios"] = ratios(report)
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    (settings.reports_dir / "bench.json").write_text(json.dumps(report, indent=1))
    tell(report)
    return report


def ratios(report: Figures) -> list[Figures]:
    """A row a figure: ours, what it is beside, the ratio, and the limit that the ratio keeps."""
    training, scoring, data = report["training"], report["scoring"], report["data"]
    speed, ordinary = training["rows_per_second"], training["ordinary_rows_per_second"]
    frame, lightgbm_frame = scoring["rows_per_second"], scoring["lightgbm_rows_per_second"]
    array, lightgbm_array = (
        scoring["tensor_rows_per_second"],
        scoring["lightgbm_array_rows_per_second"],
    )
    reached, boosted = training["seconds_to_lightgbm_quality"], training["lightgbm_seconds"]
    rows = [
        ratio("training, rows/s", speed, "ordinary loop", ordinary, at_least=5),
        ratio("to LightGBM's log-loss, s", reached, "LightGBM", boosted, at_most=1),
        ratio("scoring a frame, rows/s", frame, "LightGBM", lightgbm_frame, at_least=10),
        ratio("scoring arrays, rows/s", array, "LightGBM", lightgbm_array),
    ]
    for row in data:
        built, joined = row["features"]["seconds"], row["join"]["seconds"]
        plain = row["plain features"]["seconds"]
        fastest = min(row["chained join"]["seconds"], row["narrow join"]["seconds"])
        rows += [
            ratio(f"features, {row['times']} x, s", built, "plain DuckDB", plain),
            ratio(f"join, {row['times']} x, s", joined, "faster statement", fastest, at_most=2.5),
        ]
    for part in ("features", "join"):
        first, last = (row[part]["seconds"] / row["times"] for row in (data[0], data[-1]))
        peak = max(row[part]["peak_gb"] for row in data)
        to = f"at {data[0]['times']} x"
        rows += [
            ratio(f"{part}, s a year, {data[-1]['times']} x", last, to, first, at_most=1.25),
            ratio(f"{part}, peak GB", peak, "the most", MOST_GB, at_most=1),
        ]
    return rows


def ratio(
    what: str,
    ours: float | None,
    to: str,
    beside: float,
    at_least: float = 0.0,
    at_most: float = math.inf,
) -> Figures:
    """``ours`` is None where it was never reached."""
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


def tell(report: Figures) -> None:
    print(f"\n{'':<32}{'ours':>12}{'beside':>12}{'ratio':>8}")
    for row in report["ratios"]:
        ours, value = ("never" if row[k] is None else f"{row[k]:,.2f}" for k in ("ours", "ratio"))
        kept = {None: "", True: row["limit"], False: f"{row['limit']}: MISSED"}[row["kept"]]
        numbers = f"{ours:>12}{row['beside']:>12,.2f}{value:>8}"
        print(f"{row['what']:<32}{numbers}  {row['to']:<18}{kept}")
    losses = report["training"]["log_loss"].items()
    print("log-loss on unseen weeks: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument(
        "--part", choices=("models", "years", *DATA_PARTS), help="one measurement, as JSON"
    )
    parser.add_argument("--into", type=Path, default=Path(), help="what `years` writes")
    arguments = parser.parse_args()
    if arguments.part:
        print("\n" + json.dumps(measure(arguments.part, arguments.times[0], arguments.into)))
    else:
        bench(arguments.times)


if __name__ == "__main__":
    main()
