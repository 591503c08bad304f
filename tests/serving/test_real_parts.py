"""The real parts: on an empty folder, and a real network through copy, load and probe."""

from pathlib import Path

import numpy as np
import pandas as pd
from starlette.testclient import TestClient

from serving.app import create_app
from serving.model_copies import ModelCopies
from serving.model_loader import probe
from serving.real_parts import load_trained_model
from tests.serving.fakes import fake_settings, question


def test_before_anything_was_made_the_api_lives_and_says_what_to_run(tmp_path: Path) -> None:
    with TestClient(create_app(fake_settings(tmp_path))) as api:
        assert api.get("/health").status_code == 200
        assert api.get("/model").json()["model_version"] is None
        # Feast switches prometheus_client to shared files when it is imported; not for us.
        assert "ontime_log_failures_total 0.0" in api.get("/metrics").text
        refused = api.post("/predict", json=question())

    assert refused.status_code == 503
    assert "make" in refused.json()["errors"][0]["remedy"]


def test_a_trained_network_comes_through_copy_load_and_probe(tmp_path: Path) -> None:
    from ontime.encoder import Encoder
    from ontime.model import DelayNetwork, FeatureSpec, ModelConfig, TrainedModel

    spec = FeatureSpec(("wind_speed_mph", "slack_min"), ("carrier",))
    numbers = np.random.default_rng(0).random((50, 2), dtype=np.float32)
    network = DelayNetwork(ModelConfig(hidden=8, members=2), Encoder.fit(numbers), [2])
    model = TrainedModel(network, spec, {"carrier": ["AA", "UA"]}, {"threshold": 0.3})
    asked = pd.DataFrame(numbers, columns=list(spec.numeric)).assign(carrier="UA")

    def download(to: Path) -> Path:
        model.save(to)
        return to

    loaded = load_trained_model(ModelCopies(tmp_path).fetch("1", download))

    probe(loaded, asked)
    np.testing.assert_array_equal(loaded.predict(asked), model.predict(asked))
    assert loaded.metadata == {"threshold": 0.3}
