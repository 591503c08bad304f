"""Fixtures shared by the tests of the models."""

import pandas as pd
import pytest
import torch

from ontime.models import distillation
from ontime.models.inputs import build_vocabularies, numeric_tensor
from ontime.models.network import ModelConfig, Network
from ontime.models.preprocessing import Encoder
from ontime.models.serialization import TrainedModel
from tests.unit.models.synthetic import SPEC, synthetic_day, synthetic_rows


@pytest.fixture(autouse=True)
def _synthetic_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "local_day", synthetic_day)


@pytest.fixture(scope="session")
def model() -> TrainedModel:
    """A network with random weights and a fitted encoder. Must not be changed."""
    frame = synthetic_rows(3000)
    vocabularies = build_vocabularies(frame, SPEC)
    encoder = Encoder.fit(numeric_tensor(frame, SPEC).numpy())
    torch.manual_seed(0)
    network = Network(ModelConfig(hidden=16, members=3), encoder, [3, 3])
    metadata = {"trained_through": "2001-05-01T00:00:00+00:00", "threshold": 0.3}
    return TrainedModel(network.eval(), SPEC, vocabularies, metadata)


@pytest.fixture(scope="session")
def train() -> pd.DataFrame:
    return synthetic_rows(8_000, seed=1)


@pytest.fixture(scope="session")
def test() -> pd.DataFrame:
    return synthetic_rows(3_000, seed=2)
