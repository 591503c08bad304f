"""Encoder, network, files: what goes in, what comes out, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ontime.encoder import OUTER_RANK, Encoder
from ontime.model import (
    DelayNetwork,
    FeatureSpec,
    ModelConfig,
    ModelError,
    TrainedModel,
    build_vocabularies,
    numeric_tensor,
)

torch.set_num_threads(1)

SPEC = FeatureSpec(
    numeric=("wind", "delay", "n_waiting"),
    categorical=("carrier", "origin"),
    groups={"weather": ("wind",), "state": ("delay", "n_waiting")},
)


def flights(n: int, seed: int = 0) -> pd.DataFrame:
    """Lateness depends on delay, on carrier UA, and on wind times waiting; a tenth is missing."""
    rng = np.random.default_rng(seed)
    wind, delay = rng.gamma(2.0, 5.0, n), 20 * rng.standard_normal(n)
    waiting = rng.poisson(1.5, n).astype(float)
    carrier = rng.choice(["AA", "B6", "UA"], n)
    logit = -1.5 + 0.06 * delay + 0.8 * (carrier == "UA") + 0.04 * wind * (waiting > 2)
    late = rng.random(n) < 1 / (1 + np.exp(-logit))
    wind[rng.random(n) < 0.1] = np.nan
    frame = pd.DataFrame({"wind": wind, "delay": delay, "n_waiting": waiting}, dtype="float32")
    origin = rng.choice(["EWR", "JFK", "LGA"], n)
    return frame.assign(carrier=carrier, origin=origin, is_late=late)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    frame = flights(3000)
    vocabularies = build_vocabularies(frame, SPEC)
    torch.manual_seed(0)
    encoder = Encoder.fit(numeric_tensor(frame, SPEC).numpy())
    network = DelayNetwork(ModelConfig(hidden=16, members=3), encoder, [3, 3])
    metadata = {"trained_through": "2013-05-01T00:00:00+00:00", "threshold": 0.3}
    return TrainedModel(network.eval(), SPEC, vocabularies, metadata)


@pytest.fixture
def saved(model: TrainedModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def edit(directory: Path, **changes: object) -> None:
    path = directory / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_rank_view_is_normal_and_the_z_view_is_clipped() -> None:
    skewed = np.random.default_rng(0).exponential(100.0, (20_000, 1)).astype("float32")
    rank, z, missing = Encoder.fit(skewed)(torch.from_numpy(skewed)).T
    assert abs(rank.mean()) < 0.02 and abs(rank.std() - 1) < 0.05
    expected = ((skewed[:, 0] - np.median(skewed)) / skewed.std()).clip(-4, 4)
    np.testing.assert_allclose(z, expected, atol=1e-5)
    assert z.max() == 4.0
    assert not missing.any()


def test_the_rank_is_exact_but_where_values_crowd_in_one_cell() -> None:
    """A tenth of these values lies within about a hundredth of the interquartile range."""
    crowded = np.random.default_rng(0).gamma(0.5, 100.0, 20_000).astype("float32")
    share = (crowded.argsort().argsort() + 0.5) / len(crowded)
    exact = torch.special.ndtri(torch.from_numpy(share.clip(OUTER_RANK, 1 - OUTER_RANK)))
    found = Encoder.fit(crowded[:, None])(torch.from_numpy(crowded[:, None]))[:, 0]
    error = (found - exact).abs().numpy()
    assert error[share > 0.1].max() < 0.03
    assert error.max() < 0.4 and np.median(error) < 0.001


def test_the_rank_view_rises_with_the_value_and_stays_finite_far_outside() -> None:
    values = np.random.default_rng(0).standard_normal((5000, 1)).astype("float32")
    encoder = Encoder.fit(values)
    probes = torch.linspace(-3, 3, 500)[:, None]
    assert (encoder(probes)[:, 0].diff() >= 0).all()
    for far_out in (3e38, torch.inf):  # infinity comes to an exported program alone
        far = encoder(torch.tensor([[-far_out], [far_out]]))
        assert far.isfinite().all() and far[0, 0] < -2.5 and far[1, 0] > 2.5


def test_tied_values_get_their_mean_rank() -> None:
    mostly_zero = np.zeros((1000, 1), "float32")
    mostly_zero[900:] = np.linspace(1, 2, 100)[:, None]
    rank = Encoder.fit(mostly_zero)(torch.tensor([[0.0], [1.5]]))[:, 0]
    assert rank[0] == pytest.approx(-0.126, abs=0.02)  # the middle of the lowest 90%
    assert rank[1] == pytest.approx(1.64, abs=0.05)  # 95% are below


def test_missing_is_zero_in_every_view_and_one_in_the_indicator(model: TrainedModel) -> None:
    encoded = model.network.encoder(torch.tensor([[float("nan"), 5.0, 1.0]]))
    rank, z, missing = encoded.reshape(3, 3)
    assert (rank[0], z[0], missing[0]) == (0, 0, 1)
    assert not missing[1:].any()


def test_missing_is_not_treated_as_the_median(model: TrainedModel) -> None:
    frame = flights(5)
    median = frame.assign(delay=float(model.network.encoder.median[1]))
    assert not np.allclose(model.predict(frame.assign(delay=np.nan)), model.predict(median))


def test_a_feature_that_never_varied_or_never_came_says_nothing() -> None:
    train = np.full((100, 2), np.nan, "float32")
    train[:, 0] = 7.0
    encoded = Encoder.fit(train)(torch.tensor([[7.0, 3.0], [9.0, float("nan")]]))
    assert encoded.isfinite().all() and not encoded[:, :4].any()


def test_a_category_never_seen_has_the_index_of_unknown(model: TrainedModel) -> None:
    frame = flights(3).assign(carrier=["XX", None, "AA"])
    _, categories = model.tensors(frame)
    assert categories[:, 0].tolist() == [0, 0, 1]
    assert np.isfinite(model.predict(frame)).all()


def test_the_answer_is_the_mean_of_the_members(model: TrainedModel) -> None:
    members = model.predict_members(flights(50))
    assert members.shape == (50, 3) and members.std(axis=1).min() > 0
    np.testing.assert_allclose(model.predict(flights(50)), members.mean(axis=1))


def test_raw_features_to_probability_is_one_exportable_module(model: TrainedModel) -> None:
    rows = torch.export.Dim("rows", min=2)
    example = model.tensors(flights(8))
    exported = torch.export.export(
        model.network, example, dynamic_shapes=({0: rows}, {0: rows})
    ).module()
    more = flights(300, seed=1)
    probability = exported(*model.tensors(more)).detach().numpy()
    np.testing.assert_allclose(probability, model.predict(more), atol=1e-6)


def test_extra_columns_and_the_order_of_columns_and_rows_do_not_matter(
    model: TrainedModel,
) -> None:
    frame = flights(100)
    shuffled = frame[frame.columns[::-1]].assign(extra="x").iloc[::-1]
    np.testing.assert_allclose(model.predict(shuffled)[::-1], model.predict(frame), atol=1e-7)


def test_predicting_in_batches_gives_what_one_batch_gives(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = flights(100)
    whole = model.predict(frame)
    monkeypatch.setattr("ontime.model.PREDICT_BATCH", 7)
    np.testing.assert_allclose(model.predict(frame), whole, atol=1e-7)


def test_no_rows_give_no_predictions(model: TrainedModel) -> None:
    assert model.predict(flights(3).iloc[:0]).shape == (0,)


def test_an_absent_column_is_named(model: TrainedModel) -> None:
    with pytest.raises(ModelError, match=r"absent: \['delay'\]"):
        model.predict(flights(3).drop(columns="delay"))


def test_an_infinite_number_is_refused_with_its_place(model: TrainedModel) -> None:
    frame = flights(3)
    frame.loc[1, "delay"] = np.inf
    with pytest.raises(ModelError, match="'delay' is inf in row 1"):
        model.predict(frame)


def test_a_spec_refuses_a_feature_twice_and_strangers_in_groups() -> None:
    with pytest.raises(ModelError, match="twice"):
        FeatureSpec(("a", "a"), ())
    with pytest.raises(ModelError, match="'g' may hold numeric features only"):
        FeatureSpec(("a",), ("b",), {"g": ("b",)})


def test_a_loaded_model_is_the_saved_one_bit_for_bit(model: TrainedModel, saved: Path) -> None:
    loaded = TrainedModel.load(saved)
    frame = flights(500, seed=3)
    assert (loaded.predict(frame) == model.predict(frame)).all()
    assert loaded.spec == model.spec and loaded.vocabularies == model.vocabularies
    assert loaded.metadata == model.metadata
    assert loaded.network.config == model.network.config


def test_saving_twice_gives_the_same_bytes(model: TrainedModel, saved: Path) -> None:
    again = saved.with_name("again")
    model.save(again)
    for name in ("weights.safetensors", "model.json"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_the_directory_holds_two_readable_files_and_no_pickle(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == ["model.json", "weights.safetensors"]
    description = json.loads((saved / "model.json").read_text())
    assert description["numeric"] == list(SPEC.numeric)
    assert description["metadata"]["threshold"] == 0.3


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ModelError, match=f"{name} does not exist"):
        TrainedModel.load(saved)


def test_tampered_weights_are_refused(saved: Path) -> None:
    path = saved / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"weights\.safetensors: sha256 is"):
        TrainedModel.load(saved)


def test_features_in_another_order_than_the_weights_are_refused(saved: Path) -> None:
    edit(saved, numeric=["delay", "wind", "n_waiting"])
    with pytest.raises(ModelError, match="features and vocabularies"):
        TrainedModel.load(saved)


def test_a_network_of_another_size_is_refused(saved: Path) -> None:
    description = json.loads((saved / "model.json").read_text())
    edit(saved, network=description["network"] | {"hidden": 17})
    with pytest.raises(ModelError, match=r"hidden\.0\.\w+ has shape"):
        TrainedModel.load(saved)


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    path = saved / "weights.safetensors"
    weights = load_file(path)
    weights["output.bias"][0] = float("nan")
    inputs = [
        SPEC.numeric,
        list(json.loads((saved / "model.json").read_text())["vocabularies"].items()),
    ]
    save_file(weights, path, metadata={"inputs": json.dumps(inputs)})
    checksum = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    edit(saved, weights_sha256=checksum.stdout.split()[0])
    with pytest.raises(ModelError, match=r"output\.bias holds NaN"):
        TrainedModel.load(saved)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_description_that_is_not_one_is_refused(saved: Path, text: str) -> None:
    (saved / "model.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.json"):
        TrainedModel.load(saved)


def test_the_model_core_imports_no_more_than_torch_pandas_and_safetensors() -> None:
    code = (
        "import sys, ontime.training\n"
        "heavy = {'sklearn', 'mlflow', 'feast', 'lightgbm', 'duckdb', 'prefect', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
