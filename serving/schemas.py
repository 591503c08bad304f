"""Request and response bodies of the HTTP API.

Requests are parsed strictly: an unknown field, a number as text or a time without an offset is an
error, and one invalid instance rejects the whole request. Validation stops at the first invalid
item of a list, so that the number of errors does not depend on the request.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    ValidationInfo,
    WithJsonSchema,
)

from ontime.data.api_types import StrictModel, UtcTime, rule_error
from ontime.problem import (
    EXAMPLE_AS_OF,
    EXAMPLE_INSTANCE,
    EXAMPLE_OUTCOME,
    Instance,
    Outcome,
)

MAX_INSTANCES = 512  # predicted within a tenth of a second
MAX_OUTCOMES = 5_000  # written in one transaction
CLOCK_TOLERANCE = timedelta(minutes=5)  # between the clock of a client and ours


def _example(body: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [body]})


def _check_as_of(instance: Instance, info: ValidationInfo) -> Instance:
    if (as_of := info.data.get("as_of")) is not None:  # absent where it is invalid itself
        instance.check_as_of(as_of)
    return instance


def _check_not_future(moment: datetime) -> datetime:
    if moment > datetime.now(UTC) + CLOCK_TOLERANCE:
        raise rule_error("future", "as_of is not in the future", moment.isoformat())
    return moment


AsOf = Annotated[
    UtcTime, AfterValidator(_check_not_future), Field(default_factory=partial(datetime.now, UTC))
]
PredictableInstance = Annotated[Instance, AfterValidator(_check_as_of)]


class PredictRequest(StrictModel):
    """Instances to predict from what was known at `as_of` (default: now)."""

    model_config = _example({"as_of": EXAMPLE_AS_OF, "instances": [EXAMPLE_INSTANCE]})

    as_of: AsOf  # before the instances, which are validated against it
    instances: Annotated[
        list[PredictableInstance], Field(min_length=1, max_length=MAX_INSTANCES), FailFast()
    ]


class PredictedInstance(BaseModel):
    model_config = ConfigDict(from_attributes=True)  # a row of the prediction log

    prediction_id: str
    model_version: str
    probability: float
    # probability >= the model's threshold; null in a response logged before decisions were.
    decision: bool | None
    uncertainty: float  # standard deviation of the ensemble members' probabilities
    features_missing: list[str]  # never stored, or null
    features_stale: list[str]  # older than the time to live of their view
    features_not_yet_known: list[str]  # the stored value became known after as_of
    # as_of is at a distance that no model was trained for, or the model has never seen a value
    outside_training: bool


class PredictResponse(BaseModel):
    """Predictions in the order of the request."""

    # Of every prediction; null if a canary answered some of the instances and the champion others.
    model_version: str | None
    predictions: list[PredictedInstance]

    @classmethod
    def of(cls, rows: Sequence[object]) -> "PredictResponse":
        """The response that rows of the prediction log are."""
        predictions = [PredictedInstance.model_validate(row) for row in rows]
        first, *others = {prediction.model_version for prediction in predictions}
        return cls(model_version=None if others else first, predictions=predictions)


class ExplainRequest(StrictModel):
    """One instance to explain, from what was known at `as_of` (default: now)."""

    model_config = _example({"as_of": EXAMPLE_AS_OF, "instance": EXAMPLE_INSTANCE})

    as_of: AsOf
    instance: PredictableInstance


class Contribution(BaseModel):
    """Shapley value of one group of inputs."""

    group: str
    contribution: float
    inputs: dict[str, float | str | None]  # null where there is no usable value
    # Of a sequence: the attention to each event, newest first. The rest of 1 went to no event.
    attention: list[float] = []


class ExplainResponse(BaseModel):
    """probability = reference_probability + sum of the contributions."""

    model_version: str
    probability: float
    reference_probability: float  # predicted with every input missing
    contributions: list[Contribution]  # largest first
    features_missing: list[str]
    features_stale: list[str]
    features_not_yet_known: list[str]


def _check_known_at(outcome: Outcome) -> Outcome:
    if outcome.known_at > datetime.now(UTC) + CLOCK_TOLERANCE:
        rule = "known_at is not in the future"
        raise rule_error("future", rule, outcome.known_at.isoformat())
    return outcome


KnownOutcome = Annotated[Outcome, AfterValidator(_check_known_at)]


class OutcomesRequest(StrictModel):
    model_config = _example({"outcomes": [EXAMPLE_OUTCOME]})

    outcomes: Annotated[
        list[KnownOutcome], Field(min_length=1, max_length=MAX_OUTCOMES), FailFast()
    ]


class OutcomesResponse(BaseModel):
    """The first four add up to the number of outcomes reported."""

    model_config = ConfigDict(from_attributes=True)

    accepted: int
    duplicates: int
    contradictions: int
    never_predicted: int  # not stored: an outcome needs a prediction
    contradicting: list[str]  # instance ids; their first report is kept


class CorrectionsResponse(BaseModel):
    """The instances whose outcome was replaced; the others have that outcome, or none yet."""

    corrected: list[str]


class SyncError(BaseModel):
    at: datetime
    model_version: str | None
    detail: str


class ModelResponse(BaseModel):
    """The deployed version; all null while there is none."""

    model_version: str | None = None
    serving_since: datetime | None = None
    trained_through: str | None = None
    threshold: float | None = None
    scores: Any = None
    vocabularies: dict[str, list[str]] | None = None  # the values that the model knows
    canary: Any = None  # model_version and share, while one runs
    last_sync_error: SyncError | None = None  # null after a successful sync


class DeploymentRow(BaseModel):
    version: str
    reason: str
    trained_through: str | None
    serving_since: datetime
    until: datetime | None


class ReloadResponse(BaseModel):
    model_version: str | None
    swapped: bool


class Report(BaseModel):
    name: str
    bytes: int
    modified_at: datetime


class FieldError(BaseModel):
    """One broken rule; `field` is a path like ``instances[3].name``."""

    field: str | None = None
    detail: str
    value: str | int | float | bool | None = None


_FIELD_ERRORS = {"type": "array", "items": FieldError.model_json_schema()}  # without a reference


class ProblemDetails(BaseModel):
    """An error as RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    errors: Annotated[list[FieldError], WithJsonSchema(_FIELD_ERRORS)] | None = None
    hint: str | None = None


PROBLEM_JSON = "application/problem+json"
# OpenAPI of an error. FastAPI's `model` would document it as application/json.
PROBLEM_RESPONSE: dict[str, Any] = {
    "content": {PROBLEM_JSON: {"schema": ProblemDetails.model_json_schema()}}
}
