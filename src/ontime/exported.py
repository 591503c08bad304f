"""The network as a program that runs without this repository, whole and in 8 bits.

    program = torch.export.load("model.pt2").module()
    probability = program(numeric, categories)  # float32 [n, f] with NaN for missing, int64 [n, c]

`torch.export` traces the network with its encoder: raw numbers go in, a probability comes out, for
any number of rows. Loading such an archive can run what somebody put into it, so that its SHA-256
stands beside it, in `model.json`: check it first, as `load_checked` does.
"""

import copy
import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ontime.model import DelayNetwork

LARGEST = 127  # of a signed byte, the same on both sides


class ExportError(ValueError):
    """An exported file is not the one that was written."""


class Int8Linear(nn.Module):
    """A layer whose products are of bytes: dynamic quantisation, symmetric on both sides.

    The weights have one scale an output, set once; the inputs one a row, set as they come. Sums are
    kept in int32: rounding is all that is lost, and a zero stays zero.
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
        step = _scale(x, dim=1)
        product = torch._int_mm((x / step).round().to(torch.int8), self.weight)
        return product * step * self.scale + self.bias


def _scale(values: Tensor, dim: int) -> Tensor:
    """What one step of a byte is worth, so that the largest value along ``dim`` still fits."""
    return (values.abs().amax(dim, keepdim=True) / LARGEST).clamp_min(1e-12)


def in_int8(network: DelayNetwork) -> DelayNetwork:
    """A copy whose hidden layers compute in bytes. Encoder and embeddings stay as they are, and so
    does the last layer: it is a hundredth of the work and nothing rounds its errors away."""
    small = copy.deepcopy(network)
    small.hidden = nn.ModuleList(Int8Linear(layer) for layer in network.hidden)  # type: ignore[arg-type]
    return small


def as_program(network: DelayNetwork) -> ExportedProgram:
    """The network for any number of rows."""
    numeric = torch.zeros(2, len(network.encoder.median))
    categories = torch.zeros(2, len(network.embeddings), dtype=torch.int64)
    n = Dim("n", min=1)
    shapes = {"numeric": {0: n}, "categories": {0: n}}
    return torch.export.export(network.eval(), (numeric, categories), dynamic_shapes=shapes)


def save(program: ExportedProgram, path: Path) -> str:
    """Write the archive; its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, path)
    return _sha256(path)


def load_checked(path: Path, sha256: str) -> nn.Module:
    """The program of an archive that is the one that was written.

    Raises:
        ExportError: if it is another.
    """
    if (found := _sha256(path)) != sha256:
        raise ExportError(f"{path}: sha256 is {found[:16]}…, not {sha256[:16]}…: export it again")
    return torch.export.load(path).module()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
