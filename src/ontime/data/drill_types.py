"""What a problem declares for the drills: incidents that are played through the whole system."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class StoppedView:
    """No row of a feature view arrives."""

    view: str


@dataclass(frozen=True)
class StoppedLabels:
    """No outcome is reported; those of the period arrive together at its end.

    known_at: the column of the source table that says when an outcome became known.
    """

    table: str
    known_at: str


@dataclass(frozen=True)
class ChangedUnit:
    """Columns of a source table arrive multiplied by a factor."""

    table: str
    columns: tuple[str, ...]
    factor: float


@dataclass(frozen=True)
class CorruptedLabels:
    """The labels of the newest training rows are inverted; those reported to the API are not."""

    table: str
    label: str
    known_at: str


@dataclass(frozen=True)
class ChangedRegime:
    """Nothing is disturbed: the outcomes themselves change. The schedule is off."""


Fault = StoppedView | StoppedLabels | ChangedUnit | CorruptedLabels | ChangedRegime


@dataclass(frozen=True)
class Drill:
    """An incident from ``since`` to ``until``, replayed up to ``end``.

    text: what happens, in a sentence or two for people.
    limit_hours: within this time after ``since`` monitoring has to notice it.
    """

    name: str
    title: str
    text: str
    fault: Fault
    since: datetime
    until: datetime
    end: datetime
    limit_hours: int
