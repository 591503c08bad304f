"""Hyperparameters of the problem's models, read from its JSON file.

`make tune` writes the file. `ModelConfig`, `TrainConfig` and `LIGHTGBM_PARAMETERS` take their
defaults from it and explain each value.
"""

import json
from pathlib import Path
from typing import Any

from ontime.problem import HYPERPARAMETERS_FILE

SECTIONS = {"random", "training", "network", "lightgbm"}


class HyperparametersError(ValueError):
    """The hyperparameter file has other sections than the models read."""


def read_hyperparameters(path: Path = HYPERPARAMETERS_FILE) -> dict[str, dict[str, Any]]:
    """Section -> name -> value.

    Raises:
        HyperparametersError: if the sections are not those of `SECTIONS`.
    """
    sections: dict[str, dict[str, Any]] = json.loads(path.read_text())
    if set(sections) != SECTIONS:
        raise HyperparametersError(
            f"{path} must have the sections {sorted(SECTIONS)}; it has {sorted(sections)}"
        )
    return sections


HYPERPARAMETERS = read_hyperparameters()
