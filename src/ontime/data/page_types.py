"""What a problem declares for the pages: its board, its sliders and its scenarios."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

# Lowest and highest value.
Range = tuple[float, float]
# Feature -> value as the model saw it; None where it was missing or stale.
Values = Mapping[str, float | None]


class BoardRow(NamedTuple):
    """An instance on the board. `moment` is when it happens; `cells` follow the headings."""

    moment: datetime
    title: str
    cells: tuple[str, ...]


class Slider(NamedTuple):
    """An input to change on the page of an instance.

    features: each gets the slider's value, clipped to its own range.
    """

    label: str
    unit: str
    low: float
    high: float
    step: float
    features: Mapping[str, Range]


class Scenario(NamedTuple):
    """Several inputs changed together; `changes` returns only those that change."""

    label: str
    changes: Callable[[Values], Values]
