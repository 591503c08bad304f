"""A reason of a decision."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """A rule that applied: its code, the value found, the limit it broke, and both as text."""

    code: str
    value: float | str | None
    limit: float | None
    text: str
