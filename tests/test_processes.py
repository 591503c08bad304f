"""Two processes of torchrun train the model that one process trains."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ontime.distillation import distil
from ontime.model import TrainedModel
from tests.test_training import SMALL, SPEC, flights

ROOT = Path(__file__).resolve().parents[1]
CONFIG = replace(SMALL, epochs=3)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
PROGRAM = """
import sys
from pathlib import Path
from dataclasses import replace
from ontime.processes import process_group, rank_and_size
from ontime.distillation import distil
from tests.test_processes import CONFIG
from tests.test_training import SPEC, flights

folder, batch = Path(sys.argv[1]), int(sys.argv[2])
with process_group(on_cuda=False):
    rank, size = rank_and_size()
    config = replace(CONFIG, batch_size=batch)
    model, _, _ = distil(flights(8_000, 1), flights(3_000, 2), SPEC, config)
    model.save(folder / f"{rank}-of-{size}")
"""


def torchrun(folder: Path, batch: int) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(PROGRAM)
    command = [*TORCHRUN, str(folder / "program.py"), str(folder), str(batch)]
    environment = {"PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": ""}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    done = torchrun(tmp_path, CONFIG.batch_size)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (TrainedModel.load(tmp_path / f"{rank}-of-2") for rank in (0, 1))
    for name, weights in first.network.state_dict().items():
        assert torch.equal(weights, second.network.state_dict()[name]), name
    alone, _, history = distil(flights(8_000, 1), flights(3_000, 2), SPEC, CONFIG, "cpu")
    seen = flights(3_000, 3)
    # bf16 rounds sums of other rows differently; weights drift apart by that, answers hardly.
    assert first.predict(seen) == pytest.approx(alone.predict(seen), abs=0.02)
    assert done.stdout.count("unseen log-loss") == 1, "one of them speaks"
    told = float(done.stdout.splitlines()[-1].split()[2])
    assert told == pytest.approx(history[-1].unseen_log_loss, abs=1e-3)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    done = torchrun(tmp_path, 255)
    assert done.returncode != 0
    assert "2 processes share batches evenly; 255 rows do not" in done.stderr
