"""Exported programs answer as the model does, alone in a process, also to what is missing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ontime.exported import ExportError, as_program, in_int8, load_checked, save
from ontime.model import TrainedModel
from tests.test_model import flights
from tests.test_model import model as model  # the fixture

ALONE = """
import sys
import torch
program = torch.export.load(sys.argv[1]).module()
numeric, categories = torch.load(sys.argv[2])
torch.save(program(numeric, categories), sys.argv[3])
sys.exit(any(name.startswith("ontime") for name in sys.modules))
"""


@pytest.fixture
def rows() -> pd.DataFrame:
    """Some with nothing known, some of a carrier that training never saw."""
    frame = flights(500, seed=9)
    frame.loc[:50, ["wind", "delay", "n_waiting"]] = np.float32("nan")
    frame.loc[25:75, "carrier"] = "never seen"
    return frame


@pytest.mark.parametrize("n", [1, 7, 500])
def test_the_program_is_the_model_for_any_number_of_rows(
    n: int, model: TrainedModel, rows: pd.DataFrame, tmp_path: Path
) -> None:
    sha256 = save(as_program(model.network), tmp_path / "model.pt2")
    program = load_checked(tmp_path / "model.pt2", sha256)
    answers = program(*model.tensors(rows[:n])).detach().double().numpy()
    assert answers == pytest.approx(model.predict(rows[:n]), abs=1e-6)


def test_it_runs_without_this_repository(
    model: TrainedModel, rows: pd.DataFrame, tmp_path: Path
) -> None:
    save(as_program(model.network), tmp_path / "model.pt2")
    torch.save(model.tensors(rows), tmp_path / "inputs.pt")
    files = [str(tmp_path / name) for name in ("model.pt2", "inputs.pt", "answers.pt")]
    subprocess.run([sys.executable, "-c", ALONE, *files], check=True, cwd=tmp_path)
    answers = torch.load(tmp_path / "answers.pt").detach().double().numpy()
    assert answers == pytest.approx(model.predict(rows), abs=1e-6)


def test_in_bytes_it_is_smaller_and_hardly_another(
    model: TrainedModel, rows: pd.DataFrame, tmp_path: Path
) -> None:
    small = in_int8(model.network)
    assert all(layer.weight.dtype == torch.int8 for layer in small.hidden)
    kept = [layer.weight.dtype for layer in model.network.hidden]
    assert set(kept) == {torch.float32}, "the model itself is left alone"
    sha256 = save(as_program(small), tmp_path / "int8.pt2")
    program = load_checked(tmp_path / "int8.pt2", sha256)
    difference = np.abs(program(*model.tensors(rows)).detach().numpy() - model.predict(rows))
    assert 0 < difference.max() < 0.02


def test_a_changed_archive_is_refused(model: TrainedModel, tmp_path: Path) -> None:
    sha256 = save(as_program(model.network), tmp_path / "model.pt2")
    with (tmp_path / "model.pt2").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ExportError, match=r"not [0-9a-f]{16}…: export it again"):
        load_checked(tmp_path / "model.pt2", sha256)
