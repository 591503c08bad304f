"""A trained model and its two files: ``weights.safetensors`` and ``model.json``.

Nothing is pickled, so loading a model cannot run code. The SHA-256 of the weights is in the JSON,
and the names of the inputs are in both files. The description is checked against its schema, and
the size and the header of the weights against the description, before a weight is read: edited,
truncated, oversized or mixed-up files raise `ModelError`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ontime.errors import ModelError
from ontime.features.spec import FeatureSpec
from ontime.models.description import check_description
from ontime.models.inputs import category_tensor, check_finite, numeric_tensor
from ontime.models.network import PREDICT_BATCH, ModelConfig, Network
from ontime.models.preprocessing import Encoder

WEIGHTS_FILE, DESCRIPTION_FILE = "weights.safetensors", "model.json"
FORMAT = 5  # 5: the network reads sequences
MAX_DESCRIPTION_BYTES = 8_000_000
MAX_HEADER_BYTES = 8_000_000  # of the weights: names, shapes, and the vocabularies


@dataclass
class TrainedModel:
    """A network with the names of its inputs.

    `metadata` holds JSON values: trained_through (ISO time), threshold, scores, config.
    """

    network: Network
    spec: FeatureSpec
    vocabularies: dict[str, list[str]]
    metadata: dict[str, Any] = field(default_factory=dict)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Probability of a positive label, float64 [n]. Other columns than inputs are ignored."""
        return self.predict_members(frame).mean(axis=1)

    def predict_members(self, frame: pd.DataFrame) -> np.ndarray:
        """Probabilities of each ensemble member, float64 [n, k]; their spread is the uncertainty.

        Raises:
            ModelError: if an input's column is absent or a number is infinite.
        """
        return self._member_probabilities(*self.tensors(frame))

    def attention(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Sequence -> mean attention of its queries to each event, float64 [n, events].

        It is 0 for absent events; what is missing to a sum of 1 went to no event.
        """
        numeric, categories = self.tensors(frame)
        with torch.inference_mode():
            weights = self.network.attention_weights(numeric, categories)
        return {name: each.double().mean(dim=1)[:, :-1].numpy() for name, each in weights.items()}

    def predict_arrays(
        self, numeric: np.ndarray, categories: Mapping[str, Sequence[object]]
    ) -> np.ndarray:
        """Like `predict_members`, without a data frame.

        Args:
            numeric: the numeric inputs in the order of the spec, float32 [n, f].
            categories: each categorical input [n]; a value outside its vocabulary is unknown.
        """
        codes = np.empty((len(numeric), len(self.spec.categorical)), dtype=np.int64)
        for i, name in enumerate(self.spec.categorical):
            codes[:, i] = [self._indices[name].get(value, 0) for value in categories[name]]
        check_finite(numeric, self.spec)
        return self._member_probabilities(torch.from_numpy(numeric), torch.from_numpy(codes))

    def knows(self, categories: Mapping[str, Sequence[object]]) -> np.ndarray:
        """True where every categorical input is in its vocabulary, bool [n]."""
        columns = [
            [value in self._indices[name] for value in categories[name]]
            for name in self.spec.categorical
        ]
        return np.logical_and.reduce(columns)

    @cached_property
    def _indices(self) -> dict[str, dict[object, int]]:
        """Categorical input -> value -> index of its embedding."""
        vocabularies = self.vocabularies.items()
        return {name: {v: i + 1 for i, v in enumerate(values)} for name, values in vocabularies}

    def _member_probabilities(self, *inputs: Tensor) -> np.ndarray:
        device = self.network.encoder.median.device
        if self.network.training:  # `eval` visits every module, which takes as long as a layer
            self.network.eval()
        batches = zip(*(part.split(PREDICT_BATCH) for part in inputs), strict=True)
        with torch.inference_mode():
            probabilities = [
                self.network.member_probabilities(numeric.to(device), categories.to(device)).cpu()
                for numeric, categories in batches
            ]
        return torch.cat(probabilities).double().numpy()

    def tensors(self, frame: pd.DataFrame) -> tuple[Tensor, Tensor]:
        """The network's inputs on the CPU: numeric float32 [n, f], categories int64 [n, c]."""
        categories = category_tensor(frame, self.spec, self.vocabularies)
        return numeric_tensor(frame, self.spec), categories

    def save(self, directory: Path) -> None:
        """Write the two files; saving the same model again gives the same bytes."""
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: t.cpu().contiguous() for name, t in self.network.state_dict().items()}
        inputs = {"inputs": _inputs(self.spec, self.vocabularies)}
        save_file(weights, directory / WEIGHTS_FILE, metadata=inputs)
        description = {
            "format": FORMAT,
            "weights_sha256": _sha256(directory / WEIGHTS_FILE),
            "network": asdict(self.network.config),
            "metadata": self.metadata,
            **asdict(self.spec),
            "vocabularies": self.vocabularies,
        }
        (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the two files.

        Raises:
            ModelError: if a file is absent, unreadable, of another format, or was not saved with
                the other one.
        """
        for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
            if not (directory / name).is_file():
                raise ModelError(
                    f"a model directory holds {WEIGHTS_FILE} and {DESCRIPTION_FILE}; "
                    f"{name} does not exist"
                )
        description = _read_description(directory / DESCRIPTION_FILE)
        groups = {name: tuple(columns) for name, columns in description["groups"].items()}
        numeric, categorical = description["numeric"], description["categorical"]
        spec = FeatureSpec(tuple(numeric), tuple(categorical), groups, description["sequences"])
        vocabularies = {name: description["vocabularies"].get(name, []) for name in categorical}
        sizes = [len(vocabularies[name]) for name in categorical]
        config = ModelConfig(**description["network"])
        with torch.device("meta"):  # no memory before the shapes are compared
            network = Network(config, Encoder(len(numeric)), sizes, spec.shapes)
        path = directory / WEIGHTS_FILE
        _check_header(path, network.state_dict())
        weights = _read_weights(path, description["weights_sha256"], _inputs(spec, vocabularies))
        network.load_state_dict(weights, assign=True)
        return cls(network.eval(), spec, vocabularies, description["metadata"])


def _load_pyfunc(path: str) -> TrainedModel:
    """Called by `mlflow.pyfunc`: this module is the ``loader_module`` of a logged model."""
    return TrainedModel.load(Path(path))


def _inputs(spec: FeatureSpec, vocabularies: Mapping[str, list[str]]) -> str:
    return json.dumps(
        [spec.numeric, spec.sequences, [(name, vocabularies[name]) for name in spec.categorical]]
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_description(path: Path) -> dict[str, Any]:
    if (size := path.stat().st_size) > MAX_DESCRIPTION_BYTES:
        raise ModelError(f"{path.name} has at most {MAX_DESCRIPTION_BYTES} bytes, not {size}")
    try:
        description = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not readable as JSON: {error}") from error
    found = description.get("format", FORMAT) if isinstance(description, dict) else FORMAT
    if found != FORMAT:
        raise ModelError(
            f"{path.name} has format {found!r:.20}, this code reads format {FORMAT}: train the "
            "model again"
        )
    check_description(description)
    return dict(description)


def _check_header(path: Path, needed: Mapping[str, Tensor]) -> None:
    """Compare the file's size, and the names and shapes in its header, without reading a weight."""
    largest = sum(t.numel() * t.element_size() for t in needed.values()) + MAX_HEADER_BYTES
    if (size := path.stat().st_size) > largest:
        raise ModelError(f"{path.name} of this network has at most {largest} bytes, not {size}")
    try:
        with safe_open(path, framework="pt") as file:
            found = {n: list(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path.name} is not a safetensors file: {error}") from error
    if difference := sorted(set(found) ^ set(needed)):
        raise ModelError(
            f"{path.name}: the tensors are not those of the network in {DESCRIPTION_FILE}: "
            f"{difference[:10]}"
        )
    for name, shape in found.items():
        if shape != (rule := list(needed[name].shape)):
            raise ModelError(
                f"{path.name}: {name} has shape {shape}, {DESCRIPTION_FILE}'s network needs {rule}"
            )


def _read_weights(path: Path, digest: str, inputs: str) -> dict[str, Tensor]:
    if (found := _sha256(path)) != digest:
        raise ModelError(
            f"{path.name}: the SHA-256 is {found[:16]}…, {DESCRIPTION_FILE} says {digest[:16]}…: "
            "the files were changed or do not belong together; save or download the model again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("inputs")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path.name} is not a safetensors file: {error}") from error
    if header != inputs:
        raise ModelError(
            f"{path.name}: features and vocabularies in {DESCRIPTION_FILE} are not those of the "
            f"weights (weights: {str(header)[:80]}…, {DESCRIPTION_FILE}: {inputs[:80]}…)"
        )
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ModelError(f"{path.name}: weights must be finite; {name} holds NaN or infinity")
    return weights
