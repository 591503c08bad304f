"""Exported networks predict as the model does, in a process without this package as well."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ontime.models.export import (
    ExportError,
    export_network,
    load_exported,
    quantize_int8,
    save_exported,
)
from ontime.models.serialization import TrainedModel
from tests.unit.models.synthetic import synthetic_rows

WITHOUT_THIS_PACKAGE = """
import sys
import torch
network = torch.export.load(sys.argv[1]).module()
numeric, categories = torch.load(sys.argv[2])
torch.save(network(numeric, categories), sys.argv[3])
sys.exit(any(name.startswith("ontime") for name in sys.modules))
"""


@pytest.fixture
def rows() -> pd.DataFrame:
    """Some rows have no numeric input, some an unknown category."""
    frame = synthetic_rows(500, seed=9)
    frame.loc[:50, ["size", "age", "load"]] = np.float32("nan")
    frame.loc[25:75, "kind"] = "unknown"
    return frame


@pytest.fixture(scope="module")
def archive(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    return path, save_exported(export_network(model.network), path)


@pytest.mark.parametrize("n", [1, 7, 500])
def test_the_exported_network_is_the_model_for_any_number_of_rows(
    n: int, model: TrainedModel, rows: pd.DataFrame, archive: tuple[Path, str]
) -> None:
    network = load_exported(*archive)
    found = network(*model.tensors(rows[:n])).detach().double().numpy()
    assert found == pytest.approx(model.predict(rows[:n]), abs=1e-6)


@pytest.mark.slow
def test_it_runs_without_this_package(
    model: TrainedModel, rows: pd.DataFrame, archive: tuple[Path, str], tmp_path: Path
) -> None:
    inputs, outputs = tmp_path / "inputs.pt", tmp_path / "outputs.pt"
    torch.save(model.tensors(rows), inputs)
    command = [sys.executable, "-c", WITHOUT_THIS_PACKAGE, *map(str, (archive[0], inputs, outputs))]
    subprocess.run(command, check=True, cwd=tmp_path)
    found = torch.load(outputs).detach().double().numpy()
    assert found == pytest.approx(model.predict(rows), abs=1e-6)


def test_int8_predictions_are_close_and_the_model_is_unchanged(
    model: TrainedModel, rows: pd.DataFrame, tmp_path: Path
) -> None:
    quantized = quantize_int8(model.network)
    assert all(layer.weight.dtype == torch.int8 for layer in quantized.hidden)
    assert all(layer.weight.dtype == torch.float32 for layer in model.network.hidden)
    path = tmp_path / "int8.pt2"
    network = load_exported(path, save_exported(export_network(quantized), path))
    difference = np.abs(network(*model.tensors(rows)).detach().numpy() - model.predict(rows))
    assert 0 < difference.max() < 0.02


def test_a_changed_archive_does_not_load(archive: tuple[Path, str], tmp_path: Path) -> None:
    path, sha256 = archive
    changed = tmp_path / "model.pt2"
    changed.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ExportError, match=r"not [0-9a-f]{16}…: export it again"):
        load_exported(changed, sha256)
