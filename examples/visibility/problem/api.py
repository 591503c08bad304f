"""The visibility problem's part of the HTTP API: a window to predict, and an outcome to report."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict

from ontime.data.api_types import StrictModel, UtcTime, rule_error
from ontime.problem.definition import (
    LABEL_DUE_AFTER,
    LOW_VISIBILITY_MI,
    PREDICTION_INTERVAL,
    WINDOW,
)


def _whole_hour(moment: datetime) -> datetime:
    if moment.replace(minute=0, second=0, microsecond=0) != moment:
        raise rule_error("hour", "window_start is a whole hour in UTC", moment.isoformat())
    return moment


class Window(StrictModel):
    """Six hours at an airport."""

    airport: Literal["EWR", "JFK", "LGA"]
    window_start: Annotated[UtcTime, AfterValidator(_whole_hour)]

    @property
    def instance_id(self) -> str:
        """The id of the window, e.g. ``EWR-2013-05-01T14Z``."""
        return f"{self.airport}-{self.window_start:%Y-%m-%dT%HZ}"


class Instance(Window):
    """A window to predict."""

    @property
    def due_at(self) -> datetime:
        """When the outcome is expected to be known."""
        return self.window_start + LABEL_DUE_AFTER

    def is_trained_for(self, as_of: datetime) -> bool:
        """True: `check_as_of` allows the hour of training only."""
        return True

    def check_as_of(self, as_of: datetime) -> None:
        """Raise a validation error unless ``as_of`` is in the first hour of the window.

        No observation of the window is known in that hour, so features are those at its start.
        """
        if not timedelta(0) <= as_of - self.window_start < PREDICTION_INTERVAL:
            rule = "as_of is at window_start or less than one hour after it"
            raise rule_error("window", rule, as_of.isoformat())


class Outcome(Window):
    """The lowest visibility observed in a window, and when that became known."""

    min_visibility_mi: Annotated[float, Strict(), Field(ge=0, le=100, allow_inf_nan=False)]
    known_at: UtcTime

    def earliest_known_at(self, instance: Instance) -> datetime:
        """The earliest moment at which this outcome can be known: the end of the window."""
        return instance.window_start + WINDOW

    @property
    def label(self) -> bool:
        """True if an observation was below 3 miles."""
        return self.min_visibility_mi < LOW_VISIBILITY_MI

    @property
    def details(self) -> dict[str, Any]:
        """What happened, as JSON values; two reports with equal details agree."""
        return {"min_visibility_mi": self.min_visibility_mi}


EXAMPLE_AS_OF = "2013-05-01T14:00:00Z"
EXAMPLE_INSTANCE = {"airport": "EWR", "window_start": "2013-05-01T10:00:00-04:00"}
EXAMPLE_OUTCOME = EXAMPLE_INSTANCE | {
    "min_visibility_mi": 10.0,
    "known_at": "2013-05-01T16:00:00-04:00",
}
