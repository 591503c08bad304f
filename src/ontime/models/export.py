"""Export of the network: an archive that runs without this repository, in float32 or int8.

    network = torch.export.load("model.pt2").module()
    probability = network(numeric, categories)  # float32 [n, f] with NaN for missing, int64 [n, c]

`torch.export` traces the network with its encoder, for any number of rows. Loading such an archive
can run code that was put into it; its SHA-256 is therefore written to the ``model.json`` beside it,
and `load_exported` compares it before loading.
"""

import copy
import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ontime.models.network import Network

INT8_MAX = 127  # symmetric: -128 is not used


class ExportError(ValueError):
    """An exported archive is not the one that was written."""


class Int8Linear(nn.Module):
    """A linear layer in int8: dynamic quantization, symmetric for weights and inputs.

    Weights have one scale per output, computed once; inputs have one scale per row, computed at
    each call. Products are summed in int32, so rounding is the only loss, and zero stays zero.
    """

    weight: Tensor  # int8 [in, out]
    scale: Tensor  # float32 [1, out]
    bias: Tensor  # float32 [out]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().T.contiguous()
        scale = _scale(weight, dim=0)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        scale = _scale(x, dim=1)
        product = torch._int_mm((x / scale).round().to(torch.int8), self.weight)
        return product * scale * self.scale + self.bias


def _scale(values: Tensor, dim: int) -> Tensor:
    """The step between two int8 values, so that the largest value along ``dim`` fits."""
    return (values.abs().amax(dim, keepdim=True) / INT8_MAX).clamp_min(1e-12)


def quantize_int8(network: Network) -> Network:
    """A copy whose hidden layers compute in int8.

    The output layer stays in float32: its rounding errors would reach the logits directly. So do
    the encoder's tables, half of the numbers at the default size: there the archive is a fifth
    smaller than that in float32, and still larger than the float32 weights without a graph.
    """
    quantized = copy.deepcopy(network)
    quantized.hidden = nn.ModuleList(Int8Linear(layer) for layer in network.hidden)  # type: ignore[arg-type]
    return quantized


def export_network(network: Network) -> ExportedProgram:
    """The traced network, for any number of rows."""
    numeric = torch.zeros(2, len(network.encoder.median))
    categories = torch.zeros(2, len(network.embeddings), dtype=torch.int64)
    n = Dim("n", min=1)
    shapes = {"numeric": {0: n}, "categories": {0: n}}
    return torch.export.export(network.eval(), (numeric, categories), dynamic_shapes=shapes)


def save_exported(exported: ExportedProgram, path: Path) -> str:
    """Write the archive and return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(exported, path)
    return _sha256(path)


def load_exported(path: Path, sha256: str) -> nn.Module:
    """The network of an archive.

    Raises:
        ExportError: if the archive's SHA-256 is another one; nothing is loaded then.
    """
    if (found := _sha256(path)) != sha256:
        raise ExportError(
            f"{path}: the SHA-256 is {found[:16]}…, not {sha256[:16]}…: export it again"
        )
    return torch.export.load(path).module()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
