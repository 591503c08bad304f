"""Benefit and cost of every feature, from the finished demo: `make costs`.

Benefit is measured on labelled live traffic that the model was not trained on: the model is the
one frozen at the start of the demo. Of a group of features it is the mean Shapley value of the
log-loss reduction (SAGE). Of a feature it is the increase of the log-loss if its values are
exchanged between rows, the others as they were: two features with equal content have little each.

Cost is counted where it arises, per view: seconds to build, rows and bytes on disk, keys and bytes
in the embedded online store. Results: ``feature_costs.json``.
"""

import json
import sqlite3
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from ontime.data.tables import read_tables
from ontime.evaluation.bootstrap import ClusterBootstrap, compare_losses
from ontime.evaluation.importance import group_importance
from ontime.evaluation.metrics import log_losses
from ontime.features.builder import build_features, grid_end
from ontime.features.compact_store import view_prefix
from ontime.features.feast_config import open_feature_store, repo_config
from ontime.models.serialization import TrainedModel
from ontime.problem import INTERMEDIATE_TABLES, PREDICTION_INTERVAL, SOURCE_TABLES, VIEWS, local_day
from ontime.registry import model_registry
from ontime.settings import Settings
from ontime.storage.prediction_log import PredictionLog

MAX_ROWS = 20_000
SEED = 0
INTERMEDIATE = "intermediate tables"
Rows = list[dict[str, Any]]


def feature_benefits(model: TrainedModel, rows: pd.DataFrame) -> Rows:
    """One row per tabular input, the most useful first; rows [n] have labels."""
    labels = rows["label"].to_numpy(dtype=bool)
    known = log_losses(labels, model.predict(rows))
    bootstrap = ClusterBootstrap(local_day(rows))
    order = np.random.default_rng(SEED).permutation(len(rows))
    groups = {name: group for group, names in model.spec.groups.items() for name in names}
    found = []
    for name in model.spec.tabular:
        exchanged = rows.assign(**{name: rows[name].to_numpy()[order]})
        losses = log_losses(labels, model.predict(exchanged))
        change = compare_losses(losses, known, bootstrap)
        found.append(
            {"feature": name, "group": groups[name]}
            | {"difference": change.difference, "low": change.low, "high": change.high}
        )
    return sorted(found, key=lambda row: -row["difference"])


def build_seconds(settings: Settings) -> dict[str, float]:
    """View -> seconds of its SQL. What several views share is `INTERMEDIATE`."""
    tables = read_tables(settings.tables_dir, SOURCE_TABLES)
    until = grid_end(tables)
    started = perf_counter()
    assert not list(build_features(tables, until, []))
    shared = perf_counter() - started
    seconds = {INTERMEDIATE: shared}
    started = perf_counter()
    for view, _ in build_features(tables, until):
        seconds[view.name] = perf_counter() - started
        started = perf_counter()
    first = VIEWS[0].name  # it waited for the intermediate tables
    return seconds | {first: max(seconds[first] - shared, 0.0)}


def online_sizes(settings: Settings) -> dict[str, tuple[int, int]]:
    """View -> keys and bytes in the embedded online store."""
    config, found = repo_config(settings), {}
    store = open_feature_store(settings)
    with sqlite3.connect(config.online_store.path) as database:
        for view in VIEWS:
            prefix = view_prefix(config.project, store.get_feature_view(view.name)).decode()
            query = "SELECT count(*), sum(length(key) + length(row)) FROM rows WHERE key GLOB ?"
            keys, size = database.execute(query, (f"{prefix}*",)).fetchone()
            found[view.name] = keys, size or 0
    return found


def group_costs(settings: Settings, importance: pd.DataFrame, model: TrainedModel) -> Rows:
    """One row per group of inputs, the most important first, then what views share."""
    seconds, online = build_seconds(settings), online_sizes(settings)
    by_name = {view.name: view for view in VIEWS}
    found: Rows = []
    for group, reduction in importance.itertuples(index=False):
        row = {
            "group": group,
            "features": len(model.spec.groups.get(group, (group,))),
            "log_loss_reduction": float(reduction),
        }
        if group in by_name:
            path = Path(settings.features_dir) / f"{group}.parquet"
            keys, size = online[group]
            row |= {
                "build_seconds": seconds[group],
                "rows": len(pd.read_parquet(path, columns=["event_timestamp"])),
                "disk_bytes": path.stat().st_size,
                "online_keys": keys,
                "online_bytes": size,
            }
        found.append(row)
    if INTERMEDIATE_TABLES:
        found.append({"group": INTERMEDIATE, "build_seconds": seconds[INTERMEDIATE]})
    return found


def measure(settings: Settings) -> dict[str, Any]:
    """The report as JSON values.

    Raises:
        FileNotFoundError: if no demo has been run.
    """
    path = settings.reports_dir / "demo.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run `make demo` first")
    replay = json.loads(path.read_text())["replay"]
    start, end = (datetime.fromisoformat(replay[name]) for name in ("start", "end"))
    version = replay["frozen_version"]
    model = model_registry.load(settings, version)
    log = PredictionLog(settings.prediction_db_url)
    log.migrate()
    served = log.served(start, end + PREDICTION_INTERVAL, known_by=end)
    labelled = served[served.label.notna()]
    rows = labelled.sample(min(MAX_ROWS, len(labelled)), random_state=SEED).sort_index()
    return {
        "version": version,
        "rows": len(rows),
        "start": replay["start"],
        "end": replay["end"],
        "groups": group_costs(settings, group_importance(model, rows), model),
        "features": feature_benefits(model, rows),
    }


def main() -> None:
    settings = Settings()
    settings.require_local_tables("make costs")
    report = measure(settings)
    path = settings.reports_dir / "feature_costs.json"
    path.write_text(json.dumps(report, indent=1))
    for row in report["groups"]:
        print(
            f"  {row['group']:<24}{row.get('log_loss_reduction', 0.0):>8.4f} nats"
            f"{row.get('build_seconds', 0.0):>8.1f} s{row.get('disk_bytes', 0) / 1e6:>8.1f} MB"
            f"{row.get('online_bytes', 0) / 1e3:>8.0f} kB online"
        )
    idle = [row["feature"] for row in report["features"] if row["low"] <= 0]
    print(f"  {len(idle)} of {len(report['features'])} without a benefit above the noise: {idle}")


if __name__ == "__main__":
    main()
