"""What may be asked and what is answered: the rules of a request, each with its own message.

A request that breaks a rule anywhere is refused whole, naming the flight, the rule and the value.
JSON is taken strictly: no number for a time, no true for 1, no NaN, no field we do not know.
Times are ISO 8601 with an offset and become UTC here.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, LiteralString, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ontime.flights import KNOWN_CARRIERS, KNOWN_DESTINATIONS, KNOWN_ORIGINS, flight_id
from ontime.log_tables import Outcome

MAX_FLIGHTS = 512  # a request stays below a tenth of a second
MAX_OUTCOMES = 5_000  # a busy day and a half of all three airports
LONGEST_BLOCK = timedelta(hours=24)  # the longest in the data is 11 h 40 min
FIRST_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)  # outside, a time is a slip, and arithmetic on it
LAST_MOMENT = datetime(2100, 1, 1, tzinfo=UTC)  # may leave the range that pandas can hold
DELAY_MIN = (-24 * 60, 7 * 24 * 60)  # a day early to a week late


def _utc_moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise PydanticCustomError("moment", "a time is ISO 8601 text, like 2013-05-01T14:05-04:00")
    if moment.tzinfo is None:
        raise PydanticCustomError("offset", "a time has an offset, like 14:05-04:00 or 18:05Z")
    if not FIRST_MOMENT <= moment <= LAST_MOMENT:
        raise PydanticCustomError("range", "a time lies between 2000 and 2100")
    return moment.astimezone(UTC)


def _broken(kind: LiteralString, rule: LiteralString, span: timedelta) -> PydanticCustomError:
    """A rule between two times; the value that breaks it is what lies between them."""
    return PydanticCustomError(kind, rule, {"value": f"{span.total_seconds() / 60:+.0f} min"})


def _member_of(known: frozenset[str], what: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in known:
            examples = ", ".join(sorted(known)[:4])
            raise PydanticCustomError(
                "unknown", f"the {what} is one of the {len(known)} in the data, like {examples}"
            )
        return value

    return check


Moment = Annotated[
    datetime,
    BeforeValidator(_utc_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "example": "2013-05-01T14:05-04:00"}),
]
Carrier = Annotated[str, AfterValidator(_member_of(KNOWN_CARRIERS, "carrier"))]
Origin = Annotated[str, AfterValidator(_member_of(KNOWN_ORIGINS, "origin"))]
Destination = Annotated[str, AfterValidator(_member_of(KNOWN_DESTINATIONS, "destination"))]
FlightNumber = Annotated[int, Strict(), Field(ge=1, le=9999)]
Tail = Annotated[str, Field(pattern=r"^[A-Z0-9-]{2,10}$")]


class Strictly(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Flight(Strictly):
    """A scheduled departure from New York."""

    carrier: Carrier
    flight: FlightNumber
    origin: Origin
    dest: Destination
    tailnum: Tail | None
    scheduled_departure: Moment
    scheduled_arrival: Moment

    @model_validator(mode="after")
    def arrives_within_a_day(self) -> Self:
        block = self.scheduled_arrival - self.scheduled_departure
        if block <= timedelta(0):
            raise _broken("order", "scheduled_arrival is after scheduled_departure", block)
        if block > LONGEST_BLOCK:
            raise _broken("block", "scheduled_arrival is 24 hours after departure at most", block)
        return self

    @property
    def flight_id(self) -> str:
        return flight_id(self.carrier, self.flight, self.origin, self.scheduled_departure)


def _still_to_leave(flight: Flight, info: ValidationInfo) -> Flight:
    as_of = info.data.get("as_of")
    if as_of is not None and flight.scheduled_departure <= as_of:
        ahead = flight.scheduled_departure - as_of
        raise _broken("departed", f"scheduled_departure is after as_of, {as_of.isoformat()}", ahead)
    return flight


def _now() -> datetime:
    return datetime.now(UTC)


class PredictRequest(Strictly):
    """Flights to judge as the world was known at `as_of` (now, if not given)."""

    as_of: Moment = Field(default_factory=_now)  # first: the flights are checked against it
    flights: Annotated[
        list[Annotated[Flight, AfterValidator(_still_to_leave)]],
        Field(min_length=1, max_length=MAX_FLIGHTS),
    ]


class PredictedFlight(BaseModel):
    model_config = ConfigDict(from_attributes=True)  # a row of the log, new or read back

    prediction_id: str
    probability_late: float
    uncertainty: float  # standard deviation of the ensemble members' probabilities
    features_missing: list[str]
    features_stale: list[str]


class PredictAnswer(BaseModel):
    """In the order of the request."""

    model_version: str
    predictions: list[PredictedFlight]


class ExplainRequest(Strictly):
    """One flight to explain, as the world was known at `as_of` (now, if not given)."""

    as_of: Moment = Field(default_factory=_now)
    flight: Annotated[Flight, AfterValidator(_still_to_leave)]


class Contribution(BaseModel):
    """What knowing a group of inputs adds to the probability."""

    group: str
    contribution: float
    inputs: dict[str, float | str | None]  # null where missing or stale


class ExplainAnswer(BaseModel):
    """reference_probability + the sum of the contributions = probability_late."""

    model_version: str
    probability_late: float
    reference_probability: float  # the model's answer when it knows nothing of the flight
    contributions: list[Contribution]  # the largest first
    features_missing: list[str]
    features_stale: list[str]


class ReportedOutcome(Strictly):
    """What happened to a flight, and when that became known."""

    carrier: Carrier
    flight: FlightNumber
    origin: Origin
    scheduled_departure: Moment
    status: Literal["arrived", "cancelled", "diverted"]
    arrival_delay_min: (
        Annotated[float, Strict(), Field(ge=DELAY_MIN[0], le=DELAY_MIN[1], allow_inf_nan=False)]
        | None
    )
    known_at: Moment

    @model_validator(mode="after")
    def only_an_arrival_has_a_delay(self) -> Self:
        if (self.status == "arrived") != (self.arrival_delay_min is not None):
            rule = "arrival_delay_min is a number if status is arrived, null otherwise"
            raise PydanticCustomError("delay", rule)
        return self

    def as_logged(self) -> Outcome:
        key = flight_id(self.carrier, self.flight, self.origin, self.scheduled_departure)
        return Outcome(key, self.status, self.arrival_delay_min, self.known_at)


class OutcomesRequest(Strictly):
    outcomes: Annotated[list[ReportedOutcome], Field(min_length=1, max_length=MAX_OUTCOMES)]


class OutcomesAnswer(BaseModel):
    """accepted + duplicates + contradictions is the number of outcomes reported."""

    model_config = ConfigDict(from_attributes=True)

    accepted: int
    duplicates: int
    contradictions: int
    never_predicted: int
    contradicting: list[str]  # flight ids whose first report stands


class Failure(BaseModel):
    at: datetime
    model_version: str | None
    rule: str


class ModelAnswer(BaseModel):
    """The version that serves; all null as long as there is none."""

    model_version: str | None = None
    serving_since: datetime | None = None
    trained_through: str | None = None
    threshold: float | None = None
    scores: Any = None
    last_failure: Failure | None = None  # of following the alias; None once that worked again


class HistoryRow(BaseModel):
    version: str
    reason: str
    trained_through: str | None
    serving_since: datetime
    until: datetime | None


class ReloadAnswer(BaseModel):
    model_version: str | None
    swapped: bool


class Report(BaseModel):
    name: str
    bytes: int
    modified_at: datetime


class Problem(BaseModel):
    """One broken rule. `flight` is its index in the request, where it is about one."""

    rule: str
    field: str | None = None
    flight: int | None = None
    value: str | int | float | bool | None = None
    remedy: str | None = None


class ErrorAnswer(BaseModel):
    errors: list[Problem]
