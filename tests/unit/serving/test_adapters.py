"""The production services: on an empty folder, and with a trained network."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from ontime.features.spec import FeatureSpec
from ontime.models.network import ModelConfig, Network
from ontime.models.preprocessing import Encoder
from ontime.models.serialization import TrainedModel
from serving.adapters import load_trained_model
from serving.app import create_app
from serving.model_cache import ModelCache
from serving.model_loader import smoke_test
from tests.unit.serving.conftest import metric
from tests.unit.serving.fakes import AUTHENTICATED, fake_settings, request_body


@pytest.mark.slow  # imports Feast and MLflow
def test_on_an_empty_folder_the_api_runs_and_says_what_to_do(tmp_path: Path) -> None:
    with TestClient(create_app(fake_settings(tmp_path)), headers=AUTHENTICATED) as api:
        assert api.get("/health").status_code == 200
        assert api.get("/model").json()["model_version"] is None
        # Feast switches prometheus_client to shared files when it is imported.
        assert metric(api, "ontime_prediction_log_failures_total") == 0
        response = api.post("/predict", json=request_body())

    assert response.status_code == 503
    assert "make train" in response.json()["hint"]


def test_a_trained_network_predicts_the_same_after_download_and_load(tmp_path: Path) -> None:
    spec = FeatureSpec(("signal", "slack"), ("category",))
    numbers = np.random.default_rng(0).random((50, 2), dtype=np.float32)
    network = Network(ModelConfig(hidden=8, members=2), Encoder.fit(numbers), [2])
    model = TrainedModel(network, spec, {"category": ["a", "b"]}, {"threshold": 0.3})
    rows = pd.DataFrame(numbers, columns=list(spec.numeric)).assign(category="b")

    def download(version: str, to: Path) -> Path:
        model.save(to)
        return to

    loaded = load_trained_model(ModelCache(tmp_path).fetch("1", download))

    smoke_test(loaded, rows)
    np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))
    assert loaded.metadata == {"threshold": 0.3}
