"""A saved model loads bit-identically, and files that do not belong together do not load."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ontime.errors import ModelError
from ontime.models import serialization
from ontime.models.serialization import TrainedModel
from tests.unit.models.synthetic import SPEC, synthetic_rows


@pytest.fixture
def saved(model: TrainedModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def description(directory: Path) -> dict[str, object]:
    return json.loads((directory / "model.json").read_text())


def edit(directory: Path, **changes: object) -> None:
    (directory / "model.json").write_text(json.dumps(description(directory) | changes))


def test_a_loaded_model_is_the_saved_one_bit_for_bit(model: TrainedModel, saved: Path) -> None:
    loaded = TrainedModel.load(saved)
    frame = synthetic_rows(500, seed=3)
    assert (loaded.predict(frame) == model.predict(frame)).all()
    assert loaded.spec == model.spec
    assert loaded.vocabularies == model.vocabularies
    assert loaded.metadata == model.metadata
    assert loaded.network.config == model.network.config


@pytest.mark.slow
def test_a_model_loads_without_what_the_serving_image_lacks(saved: Path) -> None:
    """Nor does it import torch's compiler, which takes seconds and needs sympy."""
    program = f"""
import sys
for name in ("dask", "mpmath", "networkx", "sympy"):
    sys.modules[name] = None
from pathlib import Path
from ontime.models.serialization import TrainedModel
TrainedModel.load(Path({str(saved)!r}))
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "False\n", done.stderr


def test_a_model_knows_the_values_of_its_vocabularies_only(model: TrainedModel) -> None:
    seen = {name: [values[0]] * 2 for name, values in model.vocabularies.items()}
    name = model.spec.categorical[0]
    assert model.knows(seen).tolist() == [True, True]
    assert model.knows(seen | {name: ["never seen", seen[name][0]]}).tolist() == [False, True]


def test_saving_twice_gives_the_same_bytes(model: TrainedModel, saved: Path) -> None:
    again = saved.with_name("again")
    model.save(again)
    for name in ("weights.safetensors", "model.json"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_the_directory_holds_two_readable_files_and_no_pickle(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == ["model.json", "weights.safetensors"]
    assert description(saved)["numeric"] == list(SPEC.numeric)
    assert description(saved)["metadata"]["threshold"] == 0.3  # type: ignore[index]


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_an_absent_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ModelError, match=f"{name} does not exist"):
        TrainedModel.load(saved)


def test_an_older_format_is_an_error_that_says_what_to_do(saved: Path) -> None:
    edit(saved, format=4)
    with pytest.raises(ModelError, match="has format 4, this code reads format 5: train the model"):
        TrainedModel.load(saved)


def test_changed_weights_do_not_load(saved: Path) -> None:
    path = saved / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"weights\.safetensors: the SHA-256 is"):
        TrainedModel.load(saved)


def test_features_in_another_order_than_the_weights_do_not_load(saved: Path) -> None:
    edit(saved, numeric=["age", "size", "load"])
    with pytest.raises(ModelError, match="features and vocabularies"):
        TrainedModel.load(saved)


def test_a_network_of_another_size_does_not_load(saved: Path) -> None:
    network = description(saved)["network"]
    assert isinstance(network, dict)
    edit(saved, network=network | {"hidden": 32})
    with pytest.raises(ModelError, match=r"hidden\.0\.\w+ has shape"):
        TrainedModel.load(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metadata", None),
        ("metadata", []),
        ("metadata", {"trained_through": {"a": 1}}),
        ("metadata", {"trained_through": "yesterday"}),
        ("metadata", {"trained_through": "2001-05-01T00:00:00"}),
        ("metadata", {"threshold": "0.3"}),
        ("metadata", {"threshold": True}),
        ("metadata", {"threshold": float("nan")}),
        ("metadata", {"scores": []}),
        ("network", {"hidden": 12_000, "layers": 2, "members": 3, "embedding": 4}),
        ("network", {"hidden": 16, "layers": 10**9, "members": 3, "embedding": 4}),
        ("network", {"hidden": 16, "layers": True, "members": 3, "embedding": 4}),
        ("network", {"hidden": 16}),
        ("network", {"hidden": 16, "layers": 2, "members": 3, "embedding": 4, "device": "cuda"}),
        ("numeric", "size"),
        ("numeric", [["size"]]),
        ("categorical", {"kind": 1}),
        ("groups", [1]),
        ("vocabularies", None),
        ("weights_sha256", None),
    ],
)
def test_a_description_outside_its_schema_does_not_load(
    saved: Path, key: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(saved, **{key: value})
    monkeypatch.setattr(serialization, "safe_open", None)  # no weight is looked at
    with pytest.raises(ModelError, match=rf"model\.json\.{key}"):
        TrainedModel.load(saved)


def test_weights_larger_than_the_network_are_not_read(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (saved / "weights.safetensors").open("ab") as file:
        file.truncate(10**12)  # a terabyte, of which nothing is written
    monkeypatch.setattr(serialization, "_sha256", None)
    with pytest.raises(ModelError, match=r"has at most \d+ bytes, not 1000000000000"):
        TrainedModel.load(saved)


def test_a_tensor_of_another_shape_is_not_read(
    model: TrainedModel, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved / "weights.safetensors"
    save_file(load_file(path) | {"output.bias": torch.zeros(500_000)}, path)
    monkeypatch.setattr(serialization, "_sha256", None)
    with pytest.raises(ModelError, match=r"output\.bias has shape \[500000\]"):
        TrainedModel.load(saved)


def test_weights_that_are_not_finite_do_not_load(model: TrainedModel, saved: Path) -> None:
    path = saved / "weights.safetensors"
    weights = load_file(path)
    weights["output.bias"][0] = float("nan")
    inputs = json.dumps([SPEC.numeric, SPEC.sequences, list(model.vocabularies.items())])
    save_file(weights, path, metadata={"inputs": inputs})
    edit(saved, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ModelError, match=r"output\.bias holds NaN"):
        TrainedModel.load(saved)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_description_that_is_not_one_does_not_load(saved: Path, text: str) -> None:
    (saved / "model.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.json"):
        TrainedModel.load(saved)


@pytest.mark.slow
def test_loading_and_explaining_import_no_package_of_training() -> None:
    code = (
        "import sys, ontime.models.serialization, ontime.models.explanation\n"
        "heavy = {'sklearn', 'mlflow', 'feast', 'lightgbm', 'duckdb', 'prefect', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
