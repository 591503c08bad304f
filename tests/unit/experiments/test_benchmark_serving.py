"""The serving benchmark: what is read from wrk's output, the ratios, and what the peers answer."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from fastapi.testclient import TestClient

from experiments import benchmark_serving, serving_peers
from experiments.benchmark_serving import SHADOW, VISITED, prepare, ratios
from experiments.serving_load import Server, load, milliseconds
from feature_repo.definitions import definitions
from ontime.data.timestamps import utc_times
from ontime.features.feast_config import open_feature_store
from ontime.features.online_store import OnlineFeatures
from ontime.models.trainer import TrainConfig, build_model
from ontime.problem import FEATURE_SPEC
from ontime.registry import model_registry
from serving.predictor import instance_columns
from serving.schemas import PredictRequest
from tests.conftest import Dataset

OUTPUT = """
  Latency Distribution
     50%  312.00us
     75%    1.20ms
     90%    1.05s
     99%    1.50m
  9346 requests in 4.00s, 3.10MB read
"""


@pytest.mark.parametrize(
    ("quantile", "ms"), [("50%", 0.312), ("75%", 1.2), ("90%", 1050.0), ("99%", 90_000.0)]
)
def test_a_latency_is_read_in_milliseconds_whatever_its_unit(quantile: str, ms: float) -> None:
    assert milliseconds(OUTPUT, quantile) == pytest.approx(ms)


def row(server: str, connections: int, speed: float, instances: int = 1) -> dict[str, object]:
    return {
        "server": server,
        "connections": connections,
        "instances": instances,
        "requests_per_s": speed,
        "p50_ms": 1000 / speed,
        "p99_ms": 4000 / speed,
    }


def test_the_ratios_compare_one_instance_per_request() -> None:
    rows = [
        row("bare", 16, 1000), row("naive Feast", 16, 20), row("MLflow", 16, 40),
        row("ours", 1, 250), row("ours", 16, 400), row("ours", 4, 50, instances=100),
        row("ours, 2 workers", 64, 700), row(VISITED, 16, 360), row("bare", 1, 9),
        row("ours", 64, 400), row("ours, 2 workers", 16, 9), row(SHADOW, 16, 300),
    ]  # fmt: skip

    assert ratios(rows) == {
        "to_bare": 0.4,
        "to_naive_feast": 20.0,
        "to_mlflow_serve": 10.0,
        "p99_to_bare": 2.5,
        "idle_p50_ms": 4.0,
        "batch_predictions_per_s": 5000.0,
        "two_workers_to_one": 1.75,
        "with_visitors": 0.9,
        "shadow_to_bare": 0.3,
    }


def test_a_server_whose_requests_fail_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrk = tmp_path / "wrk"
    wrk.write_text(f"#!/bin/sh\necho '{OUTPUT}  Non-2xx or 3xx responses: 424'\n")
    wrk.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    server = Server("naive", psutil.Process(), "http://localhost")
    with pytest.raises(RuntimeError, match="naive: 424 of 9346 requests failed"):
        load(server, 1, 1, 1, tmp_path)


def test_the_naive_peer_predicts_from_the_features_that_the_api_reads_except_stale_ones(
    dataset: Dataset, examples: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataset.settings.model_copy(update={"data_dir": tmp_path / "var"})
    settings.data_dir.mkdir()
    for folder in ("tables", "features"):
        (settings.data_dir / folder).symlink_to(dataset.settings.data_dir / folder)
    open_feature_store(settings).apply(definitions(settings.features_dir))
    model = build_model(examples, FEATURE_SPEC, TrainConfig())
    monkeypatch.setattr(benchmark_serving, "DEMO_END", dataset.until - timedelta(days=1))
    monkeypatch.setattr(model_registry, "resolve", lambda *_: "1")
    monkeypatch.setattr(model_registry, "load", lambda *_: model)
    monkeypatch.setenv(serving_peers.FOLDER, str(tmp_path))
    monkeypatch.setattr(serving_peers, "Settings", lambda: settings)

    prepare(settings, tmp_path)
    body = json.loads((tmp_path / "100.json").read_text())
    response = TestClient(serving_peers.naive()).post("/predict", json=body).raise_for_status()

    probabilities = np.array([each["probability"] for each in response.json()["predictions"]])
    instances = PredictRequest.model_validate(body).instances
    as_of = [datetime.fromisoformat(body["as_of"])] * len(instances)
    online = OnlineFeatures(open_feature_store(settings))
    read = online.read(instance_columns(instances), utc_times(as_of))
    fresh = np.array([not names for names in read.stale])
    assert np.allclose(probabilities[fresh], model.predict(read.frame)[fresh], atol=1e-6)
    assert len(set(probabilities[fresh])) > 1
