"""The flight problem's part of the HTTP API: an instance to predict, and an outcome to report."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from ontime.data.api_types import StrictModel, UtcTime, rule_error
from ontime.problem.airports import airport_zones
from ontime.problem.definition import (
    LABEL_DUE_AFTER,
    LATE_MIN,
    PREDICTION_HORIZON,
    PREDICTION_INTERVAL,
)
from ontime.problem.flights import TAIL_NUMBER_PATTERN, flight_id

# Two characters of IATA. The Bureau's files number earlier users of a code, like "PA(1)".
CARRIER_PATTERN = r"^[A-Z0-9]{2,3}(\([0-9]\))?$"
LONGEST_BLOCK = timedelta(hours=24)  # the longest in the data is 11 h 40 min
EARLY_BY = timedelta(hours=2)  # the earliest arrival in the data is 86 minutes early
LOWEST_DELAY_MIN, HIGHEST_DELAY_MIN = -24 * 60, 7 * 24 * 60  # a day early to a week late


def _airport(code: str) -> str:
    if code not in airport_zones():
        raise PydanticCustomError("airport", "an airport has an IATA code and is in the US")
    return code


# What a model knows of these is in `GET /model`; a value that it does not know is answered with a
# flag. Only the form is checked here, and that the airport has a clock.
Carrier = Annotated[str, Field(pattern=CARRIER_PATTERN)]
Airport = Annotated[str, AfterValidator(_airport)]
FlightNumber = Annotated[int, Strict(), Field(ge=1, le=9999)]
TailNumber = Annotated[str, Field(pattern=f"^{TAIL_NUMBER_PATTERN}$")]
DelayMin = Annotated[
    float, Strict(), Field(ge=LOWEST_DELAY_MIN, le=HIGHEST_DELAY_MIN, allow_inf_nan=False)
]


class Instance(StrictModel):
    """A scheduled departure."""

    carrier: Carrier
    flight: FlightNumber
    origin: Airport
    dest: Airport
    tailnum: TailNumber | None
    scheduled_departure: UtcTime
    scheduled_arrival: UtcTime

    @model_validator(mode="after")
    def arrives_within_a_day(self) -> Self:
        block = self.scheduled_arrival - self.scheduled_departure
        if block <= timedelta(0):
            rule = "scheduled_arrival is after scheduled_departure"
            raise rule_error("order", rule, _minutes(block))
        if block > LONGEST_BLOCK:
            rule = "scheduled_arrival is at most 24 hours after scheduled_departure"
            raise rule_error("block", rule, _minutes(block))
        return self

    @property
    def instance_id(self) -> str:
        """The id under which the outcome is reported."""
        return flight_id(self.carrier, self.flight, self.origin, self.scheduled_departure)

    @property
    def due_at(self) -> datetime:
        """When the outcome is expected to be known."""
        return self.scheduled_departure + LABEL_DUE_AFTER

    def is_trained_for(self, as_of: datetime) -> bool:
        """True if models are trained on predictions this long before the departure."""
        lead = self.scheduled_departure - as_of
        return PREDICTION_HORIZON <= lead < PREDICTION_HORIZON + PREDICTION_INTERVAL

    def check_as_of(self, as_of: datetime) -> None:
        """Raise a validation error unless the flight can still be predicted at ``as_of``."""
        if self.scheduled_departure <= as_of:
            ahead = self.scheduled_departure - as_of
            rule = "scheduled_departure is after as_of"
            raise rule_error("departed", rule, f"{_minutes(ahead)} from {as_of.isoformat()}")


class Outcome(StrictModel):
    """What happened to a flight, and when that became known."""

    carrier: Carrier
    flight: FlightNumber
    origin: Airport
    scheduled_departure: UtcTime
    status: Literal["arrived", "cancelled", "diverted"]
    arrival_delay_min: DelayMin | None
    known_at: UtcTime

    @model_validator(mode="after")
    def only_an_arrival_has_a_delay(self) -> Self:
        if (self.status == "arrived") != (self.arrival_delay_min is not None):
            rule = "arrival_delay_min is a number if status is arrived, null otherwise"
            raise PydanticCustomError("delay", rule)
        return self

    @property
    def instance_id(self) -> str:
        """The id of the instance that this is the outcome of."""
        return flight_id(self.carrier, self.flight, self.origin, self.scheduled_departure)

    def earliest_known_at(self, instance: Instance) -> datetime:
        """The earliest moment at which this outcome of an instance can be known.

        An arrival within `EARLY_BY` of its schedule; a cancellation or diversion from departure on.
        """
        departure = instance.scheduled_departure
        if self.status != "arrived":
            return departure
        return max(departure, instance.scheduled_arrival - EARLY_BY)

    @property
    def label(self) -> bool:
        """True if the flight arrived late, was cancelled or was diverted."""
        return self.status != "arrived" or (self.arrival_delay_min or 0.0) >= LATE_MIN

    @property
    def details(self) -> dict[str, Any]:
        """What happened, as JSON values; two reports with equal details agree."""
        return {"status": self.status, "arrival_delay_min": self.arrival_delay_min}


# A valid request: the API's readiness check, its documentation and its tests use it.
EXAMPLE_AS_OF = "2013-05-01T10:00:00Z"
EXAMPLE_INSTANCE = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "dest": "IAH",
    "tailnum": "N14228",
    "scheduled_departure": "2013-05-01T08:15:00-04:00",
    "scheduled_arrival": "2013-05-01T11:19:00-04:00",
}
EXAMPLE_OUTCOME = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "scheduled_departure": "2013-05-01T08:15:00-04:00",
    "status": "arrived",
    "arrival_delay_min": 21.0,
    "known_at": "2013-05-01T11:40:00-04:00",
}


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:+.0f} min"
