"""Features and the historical join on Spark against DuckDB, every cell of the source.

    python -m experiments.spark_check

Builds both with each engine below ``spark-check`` of the data folder, one process after the other,
compares every cell, and prints time and peak memory of each (of the process and its children, so
that Spark's Java process is counted). Ends with 1 if a cell differs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from math import inf
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import duckdb
import pandas as pd
import psutil
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from experiments.benchmark_data import entity_rows
from feature_repo.definitions import definitions
from ontime.features import builder, spark_engine
from ontime.features.feast_config import FEATURE_SERVICE, open_feature_store
from ontime.problem import VIEWS
from ontime.settings import Settings
from pipelines.ingest import write_source_tables

ENGINES = ("duckdb", "spark")
POLL_S = 0.1
SUBMIT = "--master local[2] --driver-memory 3g pyspark-shell"  # unless PYSPARK_SUBMIT_ARGS is set
Results = dict[str, Any]


def features(settings: Settings) -> None:
    folder = Path(settings.features_dir)
    if settings.engine == "spark":
        spark_engine.write_features(settings.tables_dir, folder)
        return
    tables = builder.written_tables(settings.tables_dir)
    builder.write_features(tables, folder, memory=settings.duckdb_memory)


def join(settings: Settings) -> None:
    """From the written entity rows to a written dataset."""
    store = open_feature_store(settings)
    store.apply(definitions(settings.features_dir))
    path = settings.data_dir / "entity_rows.parquet"
    if not path.exists():
        entity_rows(settings).to_parquet(path)
    spark = settings.engine == "spark"
    job = store.get_historical_features(
        f"SELECT * FROM parquet.`{path}`" if spark else pd.read_parquet(path),
        store.get_feature_service(FEATURE_SERVICE),
    )
    job.persist(SavedDatasetFileStorage(path=str(settings.data_dir / "joined.parquet")))


def ingest(settings: Settings) -> None:
    write_source_tables.fn(settings)


PARTS = {"ingest": ingest, "features": features, "join": join}


def measure(part: str, engine: str, folder: Path, limit_s: float = inf) -> Results:
    """Run one part in a process; its time, and the largest sum of its tree's resident memory.

    `cpu_seconds` of all its processes hardly depend on what else the machine does. `ended` is 0, or
    why there is no result: the exit status, or "stopped" at the time limit.
    """
    variables = {
        "ONTIME_ENGINE": engine,
        "ONTIME_DATA_DIR": str(folder),
        "ONTIME_FEAST_REGISTRY_URL": "",  # the embedded one: definitions name the folder's files
        "ONTIME_REDIS_URL": "",
        "PYSPARK_SUBMIT_ARGS": os.environ.get("PYSPARK_SUBMIT_ARGS", SUBMIT),
    }
    command = [sys.executable, "-W", "ignore", "-m", "experiments.spark_check", "--part", part]
    started, peak = perf_counter(), 0
    cpu: dict[int, float] = {}  # process -> its seconds so far
    ended: int | str | None = None
    with subprocess.Popen(command, env=os.environ | variables) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(tree, cpu))
            if perf_counter() - started > limit_s:
                ended = "stopped"
                for each in (*tree.children(recursive=True), tree):
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
            sleep(POLL_S)
    seconds = perf_counter() - started
    return {
        "seconds": seconds,
        "cpu_seconds": sum(cpu.values()),
        "peak_gb": peak / 1e9,
        "ended": ended or process.returncode,
    }


def resident(tree: psutil.Process, cpu: dict[int, float]) -> int:
    """Bytes of a process and its children; updates the CPU seconds of each."""
    total = 0
    try:
        for process in (tree, *tree.children(recursive=True)):
            with process.oneshot():
                total += process.memory_info().rss
                times = process.cpu_times()
                cpu[process.pid] = times.user + times.system
    except psutil.NoSuchProcess:  # ended meanwhile
        pass
    return total


def differing_cells(files: list[Path], keys: list[str], columns: list[str]) -> Results:
    """Rows of the first of two, rows that one lacks, and cells that differ in rows of both."""
    ours, theirs = files
    equal = " AND ".join(f"a.{key} = b.{key}" for key in keys)
    in_both = f"a.{keys[0]} IS NOT NULL AND b.{keys[0]} IS NOT NULL"
    cells = [f"count_if({in_both} AND a.{name} IS DISTINCT FROM b.{name})" for name in columns]
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        found = db.execute(
            f"SELECT count(a.{keys[0]}), count_if(NOT ({in_both})), {' + '.join(cells)} "
            f"FROM read_parquet('{ours}') AS a FULL JOIN read_parquet('{theirs}') AS b ON {equal}"
        ).fetchone()
    assert found is not None  # an aggregate has one row
    return dict(zip(("rows", "missing_rows", "differing_cells"), found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="one part, with the engine of the settings")
    part = parser.parse_args().part
    settings = Settings()
    if part:
        PARTS[part](settings)
        return
    settings.require_local_tables("make spark-check")
    spark_engine.check_installed()
    root = settings.data_dir / "spark-check"
    shutil.rmtree(root, ignore_errors=True)
    results: Results = {"measured": {}, "compared": {}}
    for engine in ENGINES:
        folder = root / engine
        folder.mkdir(parents=True)
        (folder / "tables").symlink_to(settings.tables_dir)
        for name in ("features", "join"):
            measured = measure(name, engine, folder)
            if measured["ended"]:
                raise SystemExit(f"{name} on {engine} ended with {measured['ended']}")
            results["measured"][f"{name}, {engine}"] = measured
    for view in VIEWS:
        files = [root / engine / "features" / f"{view.name}.parquet" for engine in ENGINES]
        keys = [*view.keys, "event_timestamp"]
        results["compared"][view.name] = differing_cells(files, keys, list(view.columns))
    names = [name for view in VIEWS for name in view.columns]
    files = [root / engine / "joined.parquet" for engine in ENGINES]
    results["compared"]["join"] = differing_cells(files, ["instance_id"], names)
    report(results, settings)


def report(results: Results, settings: Settings) -> None:
    for name, each in results["measured"].items():
        print(f"{name:<24}{each['seconds']:>8.1f} s{each['peak_gb']:>8.2f} GB")
    for name, each in results["compared"].items():
        print(
            f"{name:<24}{each['rows']:>10,} rows {each['missing_rows']:>6} missing "
            f"{each['differing_cells']:>6} differing cells"
        )
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    (settings.reports_dir / "spark.json").write_text(json.dumps(results, indent=2))
    wrong = [
        name for name, each in results["compared"].items()
        if each["missing_rows"] or each["differing_cells"]
    ]  # fmt: skip
    if wrong:
        raise SystemExit(f"Spark and DuckDB differ in {', '.join(wrong)}")
    print("0 differing cells")


if __name__ == "__main__":
    main()
