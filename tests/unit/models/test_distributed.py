"""Two processes of torchrun train the model that one process trains."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ontime.evaluation.metrics import log_losses
from ontime.models.distillation import distill
from ontime.models.serialization import TrainedModel
from ontime.models.shards import fit_shards, write_shard
from tests.unit.models.synthetic import SHORT, SMALL, SPEC, synthetic_rows

ROOT = Path(__file__).resolve().parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
PROGRAM = """
import sys
from pathlib import Path

from ontime.models import distillation
from ontime.models.distributed import process_group, rank_and_size
from tests.unit.models.synthetic import SHORT, SPEC, synthetic_day, synthetic_rows

distillation.local_day = synthetic_day
with process_group(on_cuda=False):
    rank, size = rank_and_size()
    model, _, _ = distillation.distill(synthetic_rows(8_000, 1), SPEC, SHORT)
    model.save(Path(sys.argv[1]) / f"{rank}-of-{size}")
"""
SHARDS_PROGRAM = """
import sys
from pathlib import Path

from ontime.models.distributed import process_group, rank_and_size
from ontime.models.shards import fit_shards
from tests.unit.models.synthetic import SMALL, SPEC

folder = Path(sys.argv[1])
with process_group(on_cuda=False):
    model, _ = fit_shards(folder / "train", SPEC, SMALL)
    model.save(folder / f"{rank_and_size()[0]}-of-2")
"""


def run_two_processes(program: str, folder: Path) -> str:
    """What a program prints that torchrun starts twice with the folder as its argument."""
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [*TORCHRUN, str(folder / "program.py"), str(folder)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_with_shards_of_their_own_are_as_good_as_one(
    train: pd.DataFrame, test: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "train").mkdir()
    targets = np.repeat(train.chance.to_numpy()[:, None], 2, axis=1)
    for number in range(8):
        rows = slice(1_000 * number, 1_000 * (number + 1))
        write_shard(tmp_path / "train" / f"{number}.parquet", train[rows], targets[rows], SPEC)
    run_two_processes(SHARDS_PROGRAM, tmp_path)
    first, second = (TrainedModel.load(tmp_path / f"{rank}-of-2") for rank in (0, 1))
    for name, weights in first.network.state_dict().items():
        assert torch.equal(weights, second.network.state_dict()[name]), name
    single, _ = fit_shards(tmp_path / "train", SPEC, SMALL, "cpu")
    assert (first.predict(test) != single.predict(test)).any(), "other batches"
    labels = test.label.to_numpy()
    losses = [log_losses(labels, model.predict(test)).mean() for model in (first, single)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(train: pd.DataFrame, tmp_path: Path) -> None:
    printed = run_two_processes(PROGRAM, tmp_path)
    first, second = (TrainedModel.load(tmp_path / f"{rank}-of-2") for rank in (0, 1))
    for name, weights in first.network.state_dict().items():
        assert torch.equal(weights, second.network.state_dict()[name]), name
    single, _, history = distill(train, SPEC, SHORT, "cpu")
    rows = synthetic_rows(3_000, 3)
    # bf16 rounds sums of other rows differently: weights differ, predictions hardly.
    assert first.predict(rows) == pytest.approx(single.predict(rows), abs=0.02)
    header, *lines = printed.splitlines()
    assert "train loss" in header
    assert len(lines) == SHORT.epochs, "rank 0 alone prints"
    assert float(lines[-1].split()[1]) == pytest.approx(history[-1].train_loss, abs=1e-3)
