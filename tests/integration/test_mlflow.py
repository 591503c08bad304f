"""MLflow's server on Postgres and S3: a version that was registered through it loads unchanged."""

import time
from datetime import UTC, datetime
from pathlib import Path

import boto3
import httpx
import numpy as np
import pandas as pd
import pytest

from ontime.errors import RegistryUnavailable
from ontime.features.spec import FeatureSpec
from ontime.models.network import ModelConfig, Network
from ontime.models.preprocessing import Encoder
from ontime.models.serialization import TrainedModel
from ontime.registry import model_registry as registry
from ontime.registry.run_logger import TrainingResult, log_training
from ontime.settings import Settings
from serving.adapters import MlflowRegistry
from serving.model_cache import ModelCache
from tests.integration.conftest import RealMlflow, Server

SPEC = FeatureSpec(("size", "age"), ("kind",))
NUMBERS = np.random.default_rng(0).random((50, 2), dtype=np.float32)
ROWS = pd.DataFrame(NUMBERS, columns=list(SPEC.numeric)).assign(kind="b")
BOUND_S = 45.0  # three attempts of ten seconds each, and the pauses between them


@pytest.fixture(scope="module")
def settings(mlflow: RealMlflow, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("data"), mlflow_url=mlflow.address)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    network = Network(ModelConfig(hidden=8, members=2), Encoder.fit(NUMBERS), [2])
    metadata = {"threshold": 0.3, "trained_through": "2024-05-01T00:00:00+00:00"}
    return TrainedModel(network, SPEC, {"kind": ["a", "b"]}, metadata)


@pytest.fixture(scope="module")
def version(settings: Settings, model: TrainedModel) -> str:
    return log_training(
        settings,
        TrainingResult(
            as_of=datetime(2024, 5, 1, tzinfo=UTC),
            model=model,
            parameters={"hidden": 8},
            curves={"train_loss": [0.7, 0.6]},
            metrics={"auc": 0.75},
            tables={},
            test_predictions=ROWS.assign(label=True),
            figures={},
            model_card="# Model card",
            data=ROWS.assign(label=True),
        ),
    )


def test_a_version_loads_through_the_server_and_is_stored_in_s3(
    settings: Settings, version: str, model: TrainedModel, s3: Server
) -> None:
    assert registry.resolve(settings, registry.CHALLENGER) == version
    assert registry.resolve(settings, registry.CHAMPION) is None
    loaded = registry.load(settings, version)
    np.testing.assert_array_equal(loaded.predict(ROWS), model.predict(ROWS))
    assert registry.metadata(settings, version) == model.metadata
    assert registry.test_predictions(settings, version).label.all()
    client = boto3.client(
        "s3",
        endpoint_url=s3.env["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=s3.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3.env["AWS_SECRET_ACCESS_KEY"],
        region_name=s3.env["AWS_DEFAULT_REGION"],
    )
    stored = {
        item["Key"].rpartition("/")[2]
        for item in client.list_objects_v2(Bucket="mlflow")["Contents"]
    }
    assert {"model.json", "model_card.md", registry.TEST_PREDICTIONS_FILE} <= stored


def test_a_host_name_that_is_not_the_servers_is_rejected(mlflow: RealMlflow) -> None:
    url = f"{mlflow.address}/api/2.0/mlflow/experiments/list"
    assert httpx.get(url, headers={"Host": "evil"}).status_code == 403


def test_without_the_password_nothing_can_be_read(
    settings: Settings, version: str, mlflow: RealMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("api/2.0/mlflow/registered-models/search", "ajax-api/2.0/mlflow/users/get", ""):
        assert httpx.get(f"{mlflow.address}/{path}").status_code == 401, path
    artifacts = f"{mlflow.address}/api/2.0/mlflow-artifacts/artifacts"
    assert httpx.get(artifacts).status_code == 401
    assert httpx.put(f"{artifacts}/x", content=b"x").status_code == 401
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another")
    with pytest.raises(RegistryUnavailable):
        registry.resolve(settings, registry.CHALLENGER)


def test_without_the_server_the_cached_copy_loads_and_a_sync_fails_in_time(
    settings: Settings, version: str, mlflow: RealMlflow, model: TrainedModel, tmp_path: Path
) -> None:
    client = MlflowRegistry(settings)
    cache = ModelCache(tmp_path)
    cache.fetch(version, client.download)
    mlflow.server.kill()
    try:
        start = time.monotonic()
        with pytest.raises(RegistryUnavailable):
            client.resolve(registry.CHAMPION)
        assert time.monotonic() - start < BOUND_S
        loaded = TrainedModel.load(cache.fetch(version, client.download))
        np.testing.assert_array_equal(loaded.predict(ROWS), model.predict(ROWS))
    finally:
        mlflow.server.start()
    assert client.resolve(registry.CHALLENGER) == version
