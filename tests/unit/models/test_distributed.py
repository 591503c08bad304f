"""Two processes of torchrun train the model that one process trains."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from ontime.models.distillation import distill
from ontime.models.serialization import TrainedModel
from tests.unit.models.synthetic import SHORT, SPEC, synthetic_rows

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


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(train: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / "program.py"), str(tmp_path)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (TrainedModel.load(tmp_path / f"{rank}-of-2") for rank in (0, 1))
    for name, weights in first.network.state_dict().items():
        assert torch.equal(weights, second.network.state_dict()[name]), name
    single, _, history = distill(train, SPEC, SHORT, "cpu")
    rows = synthetic_rows(3_000, 3)
    # bf16 rounds sums of other rows differently: weights differ, predictions hardly.
    assert first.predict(rows) == pytest.approx(single.predict(rows), abs=0.02)
    header, *lines = done.stdout.splitlines()
    assert "train loss" in header
    assert len(lines) == SHORT.epochs, "rank 0 alone prints"
    assert float(lines[-1].split()[1]) == pytest.approx(history[-1].train_loss, abs=1e-3)
