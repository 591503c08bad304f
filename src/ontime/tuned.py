"""The numbers that were searched for, read from `tuned.json` beside this file.

`make tune` writes that file and git shows what changed: a configuration is source, and nothing that
lies about in a folder of outputs. What each number means stands where it is used:
`ontime.model.ModelConfig`, `ontime.training.TrainConfig`, `ontime.baselines`.
"""

import json
from pathlib import Path
from typing import Any

TUNED_FILE = Path(__file__).with_name("tuned.json")
SECTIONS = {"training", "network", "lightgbm"}


class TunedError(ValueError):
    """`tuned.json` does not hold what it must."""


def read_tuned(path: Path = TUNED_FILE) -> dict[str, dict[str, Any]]:
    """The sections training, network and lightgbm: the name of each number, and the number."""
    tuned: dict[str, dict[str, Any]] = json.loads(path.read_text())
    if set(tuned) != SECTIONS:
        raise TunedError(f"{path} has the sections {sorted(SECTIONS)}, not {sorted(tuned)}")
    return tuned


TUNED = read_tuned()
