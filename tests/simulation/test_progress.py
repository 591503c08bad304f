"""The progress file of a replay."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from simulation.progress import Progress

PROGRESS = Progress("run", "2024-05-01T00:00:00", "2024-06-01T00:00:00", "2024-05-02T00:00:00")


def test_no_two_replays_have_the_same_keys() -> None:
    start = datetime(2024, 5, 1, tzinfo=UTC)
    runs = {Progress.begin(start, start).run for _ in range(100)}
    assert len(runs) == 100
    assert all(len(run) == 32 for run in runs)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    assert Progress.load(path) is None
    PROGRESS.add_latency(0.0123)
    PROGRESS.save(path)
    assert Progress.load(path) == PROGRESS


def test_a_file_of_another_version_is_named_with_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_text(json.dumps({"run": "run", "waiting": {}}))
    with pytest.raises(ValueError, match=r"progress.json .*waiting.*delete the file"):
        Progress.load(path)
