"""Drills: incidents played through the whole system, each beside an undisturbed replay.

    python -m simulation.drills [--only NAME]

Features, a first model and some undisturbed weeks are made once. Every drill continues that replay
in a copy of its data folder, in which the incident was written into the tables before: the API,
monitoring, training and the gate are those of the demo and know nothing of it. During a drill
monitoring runs once a day; the schedule of trainings stays weekly. The results are in
``reports/drills.json``, and `make results` makes docs/drills.md of them.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
from prefect import flow
from prefect.settings import temporary_settings

from feature_repo.definitions import definitions
from monitoring.retrain_policy import MAX_AGE
from ontime.data.drill_types import (
    ChangedRegime,
    ChangedUnit,
    CorruptedLabels,
    Drill,
    StoppedLabels,
    StoppedView,
)
from ontime.data.files import atomic_write
from ontime.data.tables import read_table, read_tables
from ontime.features.builder import write_features
from ontime.features.feast_config import open_feature_store
from ontime.problem import DRILLS, DRILLS_START, PREDICTION_INTERVAL, SOURCE_TABLES
from ontime.settings import Settings
from simulation.demo import NO_HEARTBEAT, api_process, prepare, running_api
from simulation.drill_plot import write_picture
from simulation.drill_report import Traffic, drill_report, false_alarms
from simulation.progress import Progress, progress_file
from simulation.replay import replay

DAY = timedelta(days=1)
CORRUPTED = timedelta(days=28)  # the newest labels, of those of months
NEVER = timedelta(days=10_000)
DATA_DIR = "ONTIME_DATA_DIR"


@contextmanager
def data_folder(folder: Path) -> Iterator[Settings]:
    """Settings of another data folder, also for the flows and the API that are started inside.

    Raises:
        ValueError: if the tables are on S3, where they would not be those of the folder.
    """
    before = os.environ.get(DATA_DIR)
    os.environ[DATA_DIR] = str(folder)
    try:
        settings = Settings()
        settings.require_local_tables("make drills")
        yield settings
    finally:
        del os.environ[DATA_DIR]
        if before is not None:
            os.environ[DATA_DIR] = before


def fork_time(drills: Sequence[Drill]) -> datetime:
    """The last tick that all drills share: the one before the first incident."""
    return min(drill.since for drill in drills) - PREDICTION_INTERVAL


def write_fault(settings: Settings, drill: Drill, forked_at: datetime) -> None:
    """Write the incident into the tables of a data folder."""
    fault = drill.fault
    since, until = (pd.Timestamp(each).as_unit("us") for each in (drill.since, drill.until))
    match fault:
        case StoppedView(view):
            path = f"{settings.features_dir}/{view}.parquet"
            rows = read_table(path)
            at = rows.event_timestamp
            rows[(at <= since) | (at > until)].to_parquet(path, index=False)
        case StoppedLabels(table, known_at):
            path = f"{settings.tables_dir}/{table}.parquet"
            rows = read_table(path)
            stopped = (rows[known_at] > since) & (rows[known_at] <= until)
            rows.loc[stopped, known_at] = until
            rows.to_parquet(path, index=False)
        case ChangedUnit(table, columns, factor):
            tables = read_tables(settings.tables_dir, SOURCE_TABLES)
            rows = tables[table]
            at = rows[rows.select_dtypes("datetimetz").columns[0]]
            changed = (at > since) & (at <= until)
            rows.loc[changed, list(columns)] *= factor
            folder = Path(settings.features_dir)
            write_features(tables, folder, lambda line: None, drill.end + DAY)
        case CorruptedLabels(table, label, known_at):
            path = f"{settings.tables_dir}/{table}.parquet"
            rows = read_table(path)
            known = rows[known_at]
            # Outcomes that are still to be reported stay right.
            corrupted = (known <= forked_at) & (known > since - CORRUPTED)
            rows[label] = rows[label] ^ corrupted
            rows.to_parquet(path, index=False)
        case ChangedRegime():
            pass


def play(base: Path, folder: Path, end: datetime, drill: Drill | None) -> Traffic:
    """Continue the replay of ``base`` in a copy, with monitoring once a day.

    Args:
        drill: written into the copy first; None: undisturbed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    with data_folder(folder) as settings:
        path = progress_file(settings)
        progress = Progress.load(path)
        assert progress is not None, "the base was replayed"
        start, forked_at = (
            datetime.fromisoformat(each) for each in (progress.start, progress.last_tick)
        )
        progress.end = end.isoformat()
        progress.save(path)
        # Feast's registry holds the paths of the base.
        open_feature_store(settings).apply(definitions(settings.features_dir))
        if drill is not None:
            write_fault(settings, drill, forked_at)
        only_alerts = drill is not None and isinstance(drill.fault, ChangedRegime)
        with running_api(settings):
            replay(start, end, DAY, NEVER if only_alerts else MAX_AGE)
        return Traffic.read(settings, forked_at, end)


def run_drill(base: Path, folder: Path, drill: Drill, undisturbed: Traffic) -> dict[str, Any]:
    """Play a drill and compare it with the undisturbed replay; JSON values."""
    started = perf_counter()
    disturbed = play(base, folder, drill.end, drill)
    with data_folder(folder) as settings:
        report = drill_report(settings, drill, disturbed, undisturbed)
    print(f"{drill.title}: noticed after {report['noticed_after_hours']} h")
    return report | {"seconds": round(perf_counter() - started, 1)}


def check_noticed(reports: Iterable[dict[str, Any]]) -> None:
    """Raise AssertionError unless monitoring noticed each drill within the time that it states."""
    missed = [
        f"{each['title']}: must be noticed within {each['limit_hours']} h, was noticed after "
        f"{each['noticed_after_hours']} h; monitoring decided {each['decisions']}"
        for each in reports
        if each["noticed_at"] is None or each["noticed_after_hours"] > each["limit_hours"]
    ]
    if missed:
        raise AssertionError("\n".join(missed))


def prepare_base(base: Path, until: datetime) -> None:
    """Features, a first model, and the undisturbed replay that every drill continues."""
    with data_folder(base) as settings:
        shutil.rmtree(base, ignore_errors=True)
        with api_process(settings) as api:
            prepare(settings, DRILLS_START, api)
            api.wait_until_ready()
            replay(DRILLS_START, until)


@flow(name="drills")
def drills(only: str | None = None) -> dict[str, Any]:
    """Run the drills one after the other and write their report and pictures.

    Args:
        only: the name of one drill; None: all.

    Raises:
        AssertionError: if one was not noticed in time; the report was written.
    """
    chosen = [drill for drill in DRILLS if only in (None, drill.name)]
    settings = Settings()
    home, started = settings.data_dir / "drills", perf_counter()
    base = home / "base"
    prepare_base(base, fork_time(DRILLS))
    paired = [drill.end for drill in chosen if not isinstance(drill.fault, ChangedRegime)]
    undisturbed = play(base, home / "undisturbed", max(paired, default=DRILLS[0].end), None)
    reports = [run_drill(base, home / drill.name, drill, undisturbed) for drill in chosen]
    with data_folder(base) as of_base:
        calm = false_alarms(of_base, DRILLS_START)
    report = {
        "start": DRILLS_START.isoformat(),
        "forked_at": fork_time(DRILLS).isoformat(),
        "drills": reports,
        "calm": calm,
        "undisturbed_alerts": undisturbed.broken_feeds(),
        "seconds": round(perf_counter() - started, 1),
    }
    pictures = settings.reports_dir / "drills"
    pictures.mkdir(parents=True, exist_ok=True)
    for each in reports:
        write_picture(each, pictures / f"{each['name']}.png")
    with atomic_write(settings.reports_dir / "drills.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1))
    print(f"{len(reports)} drills in {report['seconds']:.0f} s: {settings.reports_dir}/drills.json")
    check_noticed(reports)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[drill.name for drill in DRILLS])
    with temporary_settings(NO_HEARTBEAT):
        drills(parser.parse_args().only)


if __name__ == "__main__":
    main()
