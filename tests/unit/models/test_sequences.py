"""The network reads sequences of events: by attention, in any order, with any of them absent."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from ontime.errors import ModelError
from ontime.features.spec import FeatureSpec, FeatureSpecError, event_names
from ontime.models.dropout import FeatureGroupDropout
from ontime.models.explanation import contributions
from ontime.models.export import export_network, quantize_int8
from ontime.models.network import ModelConfig
from ontime.models.serialization import TrainedModel
from ontime.models.shards import build_model as build_from_shards
from ontime.models.shards import write_shard
from ontime.models.trainer import TrainConfig, build_model, fit

K = 5
NAMES = event_names("visits", K, ("age", "delay"))
SPEC = FeatureSpec(
    ("size", *NAMES), ("kind",), {"sensor": ("size",), "visits": NAMES}, {"visits": K}
)
CONFIG = TrainConfig(
    epochs=8,
    batch_size=256,
    learning_rate=5e-3,
    weight_decay=0.01,
    group_dropout=0.1,
    dropout=0.1,
    network=ModelConfig(hidden=32, members=2, event_width=8),
)


def rows_with_events(n: int, seed: int = 0) -> pd.DataFrame:
    """Rows with up to K visits. The label depends on the delay of the youngest visits only."""
    rng = np.random.default_rng(seed)
    age = np.sort(rng.exponential(3.0, (n, K)), axis=1)
    delay = rng.normal(0, 30, (n, K))
    chance = 1 / (1 + np.exp(-(delay * np.exp(-age)).sum(axis=1) / 10))
    absent = np.arange(K) >= rng.integers(0, K + 1, n)[:, None]
    age[absent] = delay[absent] = np.nan
    events = np.stack([age, delay], axis=2).reshape(n, -1)
    frame = pd.DataFrame(events.astype(np.float32), columns=list(NAMES))
    frame["size"] = rng.normal(0, 1, n).astype(np.float32)
    return frame.assign(kind=rng.choice(["a", "b"], n), chance=chance, label=rng.random(n) < chance)


@pytest.fixture(scope="module")
def train() -> pd.DataFrame:
    return rows_with_events(8_000, seed=1)


@pytest.fixture(scope="module")
def model(train: pd.DataFrame) -> TrainedModel:
    targets = np.repeat(train[["chance"]].to_numpy(), 2, axis=1)
    return fit(train, targets, SPEC, CONFIG, "cpu")[0]


def events_of(frame: pd.DataFrame) -> np.ndarray:
    return frame[list(NAMES)].to_numpy().reshape(len(frame), K, 2).copy()


def with_events(frame: pd.DataFrame, events: np.ndarray) -> pd.DataFrame:
    return frame.assign(**dict(zip(NAMES, events.reshape(len(frame), -1).T, strict=True)))


def test_attention_finds_what_is_in_the_events(model: TrainedModel) -> None:
    test = rows_with_events(2_000, seed=2)
    hidden = test.assign(**dict.fromkeys(NAMES, np.float32("nan")))
    known = test[list(NAMES)].notna().all(axis=1)
    assert np.corrcoef(model.predict(test)[known], test.chance[known])[0, 1] > 0.9
    assert model.predict(hidden).std() < 0.05  # the rest of the row says nothing


def test_the_order_of_the_events_does_not_matter(model: TrainedModel) -> None:
    """Their age does: the network has no other notion of their position."""
    frame = rows_with_events(200, seed=3)
    backwards = with_events(frame, events_of(frame)[:, ::-1])
    np.testing.assert_allclose(model.predict(backwards), model.predict(frame), atol=1e-5)


def test_an_event_without_its_first_input_gets_no_attention(model: TrainedModel) -> None:
    frame = rows_with_events(200, seed=4)
    events = events_of(frame)
    events[:, 2:] = np.nan
    two = model.predict(with_events(frame, events))
    events[:, 2:, 1] = 1e4  # a delay of an event that is absent
    np.testing.assert_array_equal(model.predict(with_events(frame, events)), two)
    events[:, 2:, 0] = 0.1
    assert not np.allclose(model.predict(with_events(frame, events)), two, atol=0.01)


def test_attention_sums_to_one_and_is_zero_for_absent_events(model: TrainedModel) -> None:
    frame = rows_with_events(300, seed=5)
    attention = model.attention(frame)["visits"]
    assert attention.shape == (300, K)
    absent = np.isnan(events_of(frame)[:, :, 0])
    assert (attention[absent] == 0).all()
    assert (attention.sum(axis=1) <= 1 + 1e-6).all()
    assert (attention[absent.all(axis=1)] == 0).all()
    full = attention[~absent.any(axis=1)]
    assert full[:, 0].mean() > 1.3 * full[:, -1].mean()  # the youngest event says most


def test_an_input_has_the_same_statistics_in_every_event(
    train: pd.DataFrame, tmp_path: Path
) -> None:
    in_memory = build_model(train, SPEC, CONFIG).network.encoder
    by_event = in_memory.median[1:].view(K, 2)
    assert (by_event == by_event[0]).all()
    assert in_memory.median[1] != in_memory.median[2]
    targets = np.repeat(train[["chance"]].to_numpy(), 2, axis=1)
    write_shard(tmp_path / "0.parquet", train, targets, SPEC)
    from_shards = build_from_shards(tmp_path, SPEC, CONFIG).network.encoder
    numeric = torch.from_numpy(train[list(SPEC.numeric)].to_numpy())
    torch.testing.assert_close(from_shards(numeric), in_memory(numeric), rtol=0, atol=0.05)


def test_a_saved_model_predicts_the_same_and_knows_its_sequences(
    model: TrainedModel, tmp_path: Path
) -> None:
    frame = rows_with_events(100, seed=6)
    model.save(tmp_path)
    loaded = TrainedModel.load(tmp_path)
    assert loaded.spec == SPEC
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    description = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(description.replace(f'"visits": {K}', '"visits": 2'))
    with pytest.raises(ModelError):
        TrainedModel.load(tmp_path)


@pytest.mark.parametrize("int8", [False, True])
def test_the_exported_network_is_the_network(model: TrainedModel, int8: bool) -> None:
    numeric, categories = model.tensors(rows_with_events(300, seed=7))
    network = quantize_int8(model.network) if int8 else model.network
    exported = export_network(network).module()
    error = 0.02 if int8 else 1e-6
    for n in (1, 300):
        expected = model.network(numeric[:n], categories[:n])
        found = exported(numeric[:n], categories[:n])
        torch.testing.assert_close(found, expected, atol=error, rtol=0)


def test_group_dropout_hides_a_whole_sequence() -> None:
    generator = torch.Generator().manual_seed(0)
    encoded = torch.ones(4_000, 3 * len(SPEC.numeric))
    categories = torch.ones(4_000, 1, dtype=torch.int64)
    FeatureGroupDropout(SPEC, 0.25, generator)(encoded, categories)
    events: Tensor = encoded.view(4_000, 3, -1)[:, 0, 1:]
    hidden = (events == 0).all(dim=1)
    assert ((events == 0).any(dim=1) == hidden).all()
    assert 0.2 < hidden.float().mean() < 0.3


def test_a_sequence_is_a_group_of_the_explanation(model: TrainedModel) -> None:
    row = rows_with_events(50, seed=8).nlargest(1, "chance")
    reference, parts = contributions(model, row)
    assert max(parts, key=lambda name: abs(parts[name])) == "visits"
    assert reference + sum(parts.values()) == pytest.approx(model.predict(row)[0], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"numeric": (*NAMES, "size")}, "are the last numeric inputs"),
        ({"sequences": {"visits": 3}}, "has 10 inputs for 3 events"),
        ({"sequences": {"sensor": 1}}, "are the last numeric inputs"),
    ],
)
def test_sequences_that_cannot_be_read_are_refused(changes: dict[str, object], rule: str) -> None:
    with pytest.raises(FeatureSpecError, match=rule):
        replace(SPEC, **changes)  # type: ignore[arg-type]
