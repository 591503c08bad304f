"""The hyperparameter file has the sections and names that the models read."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from ontime.models.baselines import LIGHTGBM_PARAMETERS
from ontime.models.hyperparameters import (
    HYPERPARAMETERS,
    HyperparametersError,
    read_hyperparameters,
)
from ontime.models.network import ModelConfig
from ontime.models.trainer import TrainConfig


def test_every_hyperparameter_is_a_default_of_a_configuration() -> None:
    train, network = TrainConfig(), ModelConfig()
    assert set(HYPERPARAMETERS["training"]) <= {field.name for field in fields(train)}
    assert all(getattr(train, name) == v for name, v in HYPERPARAMETERS["training"].items())
    assert all(getattr(network, name) == v for name, v in HYPERPARAMETERS["network"].items())
    assert HYPERPARAMETERS["lightgbm"].items() <= LIGHTGBM_PARAMETERS.items()


def test_a_file_with_other_sections_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "hyperparameters.json"
    path.write_text(json.dumps(HYPERPARAMETERS | {"forest": {}}))
    with pytest.raises(HyperparametersError, match=r"it has .*'forest'"):
        read_hyperparameters(path)
