"""Serving benchmark: the API and its peers under load, in one run on one machine, as ratios.

    python -m experiments.benchmark_serving [--seconds 3] [--rounds 3]

It needs `wrk` and a champion (`make demo`, or `make ingest features train promote`). Peers, each
one process: `bare` and `naive` of `serving_peers`, and ``mlflow models serve``, which gets finished
features and logs nothing. The API logs every prediction to a new SQLite database and has no
challenger in shadow, unless stated. It is also measured on ONTIME_REDIS_URL, and with it on
ONTIME_PREDICTION_DB_URL, if they are set, and with a challenger in shadow if there is one. Results
are in ``bench.json`` under ``serving``, the picture in ``serving.png``.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.page_visitors import visitors
from experiments.serving_load import Row, load, running
from experiments.serving_peers import FOLDER, feast_store, is_valid
from feature_repo.definitions import definitions
from ontime.data.timestamps import column_arrays
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import load_requests
from ontime.features.online_store import OnlineFeatures, OnlineWriter
from ontime.problem import DEMO_END, VIEWS, Instance, entity_key_columns, request_of
from ontime.registry import model_registry
from ontime.settings import Settings
from ontime.storage.api_keys import local_key

LARGEST = 100  # instances of a request
LOADS = ((1, 1), (16, 1), (64, 1), (4, LARGEST))  # connections, instances per request
VISITED, SHADOW = "ours, pages visited", "ours, a challenger in shadow"
REDIS, DEPLOYED = "ours, Redis", "ours, Redis and Postgres"
WORKERS = "ours, 2 workers"
WRK_BODY = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
wrk.body = io.open("{path}"):read("*a")
"""


def prepare(settings: Settings, folder: Path) -> None:
    """Request bodies of the first hours after the demo, and the peers' store and model.

    All instances of a body are predicted at one time; if fewer are valid then, some come twice.

    Raises:
        LookupError: if there is no champion.
    """
    version = model_registry.resolve(settings, model_registry.CHAMPION)
    if version is None:
        raise LookupError("the benchmark needs a champion: run `make demo` first")
    key = local_key(settings)
    model = model_registry.load(settings, version)
    model.save(folder / "model")
    rows = load_requests(settings)
    rows = rows[rows.eligible & (rows.event_timestamp > pd.Timestamp(DEMO_END))]
    rows = rows.sort_values("event_timestamp", kind="stable").head(LARGEST)
    as_of = rows.event_timestamp.min()
    one_each = [request_json(as_of, [request_of(row)]) for row in rows.to_dict("records")]
    valid = [is_valid(body) for body in one_each]
    rows = rows.iloc[np.resize(np.flatnonzero(valid), LARGEST)]
    fields = column_arrays(rows, Instance.model_fields)
    keys = pd.DataFrame(entity_key_columns(fields))
    embedded = open_feature_store(settings.model_copy(update={"redis_url": ""}))
    ours, peer = open_feature_store(settings), feast_store(folder)
    peer.apply(definitions(settings.features_dir))
    writers = [OnlineWriter(store) for store in (embedded, ours)]
    for view in VIEWS:
        table = pd.read_parquet(f"{settings.features_dir}/{view.name}.parquet")
        known = table[table.event_timestamp <= as_of]
        known = known.merge(keys[list(view.keys)].drop_duplicates(), on=list(view.keys))
        newest = known.sort_values("event_timestamp").drop_duplicates(list(view.keys), keep="last")
        for writer in writers:
            writer.write([(view, newest)])
        peer.write_to_online_store(view.name, df=newest)
    read = OnlineFeatures(ours).read(fields, np.full(len(rows), as_of.to_datetime64()))
    inputs = read.frame[[*model.spec.numeric, *model.spec.categorical]]
    for n in {instances for _, instances in LOADS}:
        instances = [request_of(row) for row in rows.head(n).to_dict("records")]
        write_body(folder, f"{n}", request_json(as_of, instances), key)
        frame = json.loads(inputs.head(n).to_json(orient="split"))
        write_body(folder, f"{n}-mlflow", json.dumps({"dataframe_split": frame}), key)


def request_json(as_of: pd.Timestamp, instances: list[Row]) -> str:
    return json.dumps({"as_of": as_of.isoformat(), "instances": instances})


def write_body(folder: Path, name: str, body: str, key: str) -> None:
    (folder / f"{name}.json").write_text(body)
    (folder / f"{name}.lua").write_text(WRK_BODY.format(path=folder / f"{name}.json", key=key))


def median(rows: Sequence[Row]) -> Row:
    """The row of the median throughput."""
    return sorted(rows, key=lambda row: float(row["requests_per_s"]))[len(rows) // 2]


def benchmark(seconds: int, rounds: int) -> Row:
    """Measure every server under every load, in turns, and write ratios of the medians.

    Raises:
        RuntimeError: if wrk is not installed, or a server does not start.
    """
    if shutil.which("wrk") is None:
        raise RuntimeError("the serving benchmark needs the load generator wrk: apt install wrk")
    settings = Settings()
    with TemporaryDirectory(prefix="serving-", dir=settings.data_dir) as scratch, ExitStack() as on:
        folder = Path(scratch)
        prepare(settings, folder)
        api = ["serving.server"]
        peers = ["uvicorn", "--no-access-log", "--factory"]
        champion = f"models:/{model_registry.MODEL_NAME}@{model_registry.CHAMPION}"
        model = ["mlflow", "models", "serve", "--env-manager", "local", "-m", champion]
        embedded = {
            "ONTIME_REDIS_URL": "",
            "ONTIME_PREDICTION_DB_URL": f"sqlite:///{folder}/predictions.db",
            "ONTIME_SHADOW": "false",
        }
        start = [
            running("bare", [*peers, "experiments.serving_peers:bare"], "/predict", "/docs"),
            running(
                "naive Feast", [*peers, "experiments.serving_peers:naive"], "/predict", "/docs",
                **{FOLDER: scratch},
            ),
            running(
                "MLflow", model, "/invocations", "/ping", body="-mlflow",
                MLFLOW_TRACKING_URI=settings.mlflow_url,
            ),
            running("ours", api, "/predict", "/ready", **embedded),
            running(WORKERS, [*api, "--workers", "2"], "/predict", "/ready", **embedded),
        ]  # fmt: skip
        if settings.redis_url:
            on_redis = embedded | {"ONTIME_REDIS_URL": settings.redis_url}
            start.append(running(REDIS, api, "/predict", "/ready", **on_redis))
            if not settings.prediction_db_url.startswith("sqlite"):
                on_both = on_redis | {"ONTIME_PREDICTION_DB_URL": settings.prediction_db_url}
                start.append(running(DEPLOYED, api, "/predict", "/ready", **on_both))
        if model_registry.resolve(settings, model_registry.CHALLENGER) is not None:
            shadow = embedded | {"ONTIME_SHADOW": "true"}
            start.append(running(SHADOW, api, "/predict", "/ready", **shadow))
        servers = [on.enter_context(each) for each in start]
        rows = []
        for each in LOADS:
            turns = [[load(s, *each, seconds, folder) for s in servers] for _ in range(rounds)]
            rows += [median(of_one) for of_one in zip(*turns, strict=True)]
        ours = next(server for server in servers if server.name == "ours")
        visited = replace(ours, name=VISITED)
        with visitors(ours.url.removesuffix("/predict")):
            rows.append(median([load(visited, 16, 1, seconds, folder) for _ in range(rounds)]))
    report = {"rows": rows} | ratios(rows)
    path = settings.reports_dir / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    bench = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(bench | {"serving": report}, indent=1))
    draw(rows, settings.reports_dir / "serving.png")
    for name, value in ratios(rows).items():
        print(f"{name:<24}{value:>10.3f}")
    return report


def ratios(rows: list[Row]) -> dict[str, float]:
    """Throughput against the peers with 16 connections, and what the API promises."""
    by_load = {(row["server"], row["connections"], row["instances"]): row for row in rows}

    def speed(server: str, connections: int = 16, instances: int = 1) -> float:
        return float(by_load[server, connections, instances]["requests_per_s"])

    others = {"redis_to_bare": REDIS, "deployed_to_bare": DEPLOYED, "shadow_to_bare": SHADOW}
    return {
        "to_bare": speed("ours") / speed("bare"),
        "to_naive_feast": speed("ours") / speed("naive Feast"),
        "to_mlflow_serve": speed("ours") / speed("MLflow"),
        "p99_to_bare": by_load["ours", 16, 1]["p99_ms"] / by_load["bare", 16, 1]["p99_ms"],
        "idle_p50_ms": by_load["ours", 1, 1]["p50_ms"],
        "batch_predictions_per_s": 100 * speed("ours", 4, 100),
        "two_workers_to_one": speed(WORKERS, 64) / speed("ours", 64),
        "with_visitors": speed(VISITED) / speed("ours"),
    } | {
        name: speed(server) / speed("bare")
        for name, server in others.items()
        if (server, 16, 1) in by_load
    }


def draw(rows: list[Row], path: Path) -> None:
    """Requests per second of each server at one instance per request."""
    single = pd.DataFrame(rows).query("instances == 1")
    table = single.pivot_table("requests_per_s", "server", "connections").sort_values(16)
    figure, axes = plt.subplots(figsize=(8, 4))
    table.plot.barh(ax=axes, logx=True, xlabel="requests/s, logarithmic", ylabel="")
    axes.legend(title="connections", loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each round, load and server")
    parser.add_argument("--rounds", type=int, default=3, help="of each load; the median counts")
    benchmark(**vars(parser.parse_args()))
