"""The SHA-256 of the weights is a tag of the version, and is compared when a version is loaded."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ontime.errors import ModelError
from ontime.features.spec import FeatureSpec
from ontime.models.network import ModelConfig, Network
from ontime.models.preprocessing import Encoder
from ontime.models.serialization import WEIGHTS_FILE, TrainedModel
from ontime.registry import model_registry as registry
from ontime.registry.run_logger import TrainingResult, log_training
from ontime.settings import Settings

SPEC = FeatureSpec(("size", "age"), ("kind",))
NUMBERS = np.random.default_rng(0).random((50, 2), dtype=np.float32)
ROWS = pd.DataFrame(NUMBERS, columns=list(SPEC.numeric)).assign(kind="b")


def random_model(seed: int) -> TrainedModel:
    torch.manual_seed(seed)
    network = Network(ModelConfig(hidden=8, members=2), Encoder.fit(NUMBERS), [2])
    return TrainedModel(network, SPEC, {"kind": ["a", "b"]}, {"threshold": 0.3})


@pytest.mark.slow
def test_an_exchanged_model_does_not_load_although_its_two_files_agree(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    result = TrainingResult(
        as_of=datetime(2024, 5, 1, tzinfo=UTC),
        model=random_model(0),
        parameters={},
        curves={},
        metrics={},
        tables={},
        test_predictions=ROWS.assign(label=True),
        figures={},
        model_card="",
        data=ROWS.assign(label=True),
    )
    version = log_training(settings, result)
    loaded = registry.load(settings, version)
    np.testing.assert_array_equal(loaded.predict(ROWS), result.model.predict(ROWS))

    (weights,) = (tmp_path / "mlflow" / "artifacts").rglob(WEIGHTS_FILE)
    random_model(1).save(weights.parent)

    with pytest.raises(ModelError, match="SHA-256 of its tag"):
        registry.load(settings, version)
    with pytest.raises(ModelError, match="SHA-256 of its tag"):
        registry.verify(settings, version, weights.parent)
