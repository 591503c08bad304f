"""MLflow's server on Postgres and S3: what is registered through it comes back byte for byte."""

import time
from datetime import UTC, datetime
from pathlib import Path

import boto3
import httpx
import numpy as np
import pandas as pd
import pytest

from ontime import registry, run_log
from ontime.encoder import Encoder
from ontime.model import DelayNetwork, FeatureSpec, ModelConfig, TrainedModel
from ontime.settings import Settings
from serving.model_copies import ModelCopies
from serving.model_loader import RegistryUnavailable
from serving.real_parts import MlflowRegistry
from tests.integration.conftest import RealMlflow, Server

SPEC = FeatureSpec(("wind_speed_mph", "slack_min"), ("carrier",))
NUMBERS = np.random.default_rng(0).random((50, 2), dtype=np.float32)
ROWS = pd.DataFrame(NUMBERS, columns=list(SPEC.numeric)).assign(carrier="UA")
BOUND_S = 45.0  # three tries of ten seconds each, and the pauses between


@pytest.fixture(scope="module")
def settings(mlflow: RealMlflow, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(var=tmp_path_factory.mktemp("var"), mlflow_url=mlflow.address)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    network = DelayNetwork(ModelConfig(hidden=8, members=2), Encoder.fit(NUMBERS), [2])
    description = {"threshold": 0.3, "trained_through": "2013-05-01T00:00:00+00:00"}
    return TrainedModel(network, SPEC, {"carrier": ["AA", "UA"]}, description)


@pytest.fixture(scope="module")
def version(settings: Settings, model: TrainedModel) -> str:
    return run_log.log_training(
        settings,
        run_log.Training(
            as_of=datetime(2013, 5, 1, tzinfo=UTC),
            model=model,
            parameters={"hidden": 8},
            curves={"train_loss": [0.7, 0.6]},
            metrics={"auc": 0.75},
            tables={},
            judged=ROWS.assign(is_late=True),
            figures={},
            model_card="# Of the tests",
            data=ROWS.assign(is_late=True),
        ),
    )


def test_a_version_comes_back_through_the_server_and_lies_in_s3(
    settings: Settings, version: str, model: TrainedModel, s3: Server
) -> None:
    assert registry.resolve(settings, registry.CHALLENGER) == version
    loaded = registry.load(settings, version)
    np.testing.assert_array_equal(loaded.predict(ROWS), model.predict(ROWS))
    assert registry.judged(settings, version).is_late.all()
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
    assert {"model.json", "model_card.md", "judged.parquet"} <= stored


def test_a_name_that_is_not_the_servers_is_refused(mlflow: RealMlflow) -> None:
    answer = httpx.get(
        f"{mlflow.address}/api/2.0/mlflow/experiments/list", headers={"Host": "evil"}
    )
    assert answer.status_code == 403


def test_without_the_server_the_copy_serves_and_following_fails_in_time(
    settings: Settings, version: str, mlflow: RealMlflow, model: TrainedModel, tmp_path: Path
) -> None:
    real = MlflowRegistry(settings)
    copies = ModelCopies(tmp_path)
    copies.fetch(version, lambda to: real.download(version, to))
    mlflow.server.kill()
    try:
        began = time.monotonic()
        with pytest.raises(RegistryUnavailable):
            real.resolve(registry.CHAMPION)
        assert time.monotonic() - began < BOUND_S
        copy = copies.fetch(version, lambda to: real.download(version, to))
        loaded = TrainedModel.load(copy)
        np.testing.assert_array_equal(loaded.predict(ROWS), model.predict(ROWS))
    finally:
        mlflow.server.start()
    assert real.resolve(registry.CHALLENGER) == version
