"""Field types of the HTTP API: strict models, UTC times, and errors that carry rule and value."""

from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, LiteralString

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

# Outside of these a time is a typing error, and arithmetic on it may leave what pandas can hold.
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
MAX_UNKNOWN_FIELDS = 3  # reported per object


class StrictModel(BaseModel):
    """A request model: immutable, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def drop_most_unknown_fields(cls, data: Any) -> Any:
        """Keep the first unknown fields: pydantic builds one error for each, at 2 KB per error."""
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields):
            return data
        unknown = (name for name in data if name not in cls.model_fields)
        kept = {*cls.model_fields, *islice(unknown, MAX_UNKNOWN_FIELDS)}
        return {name: value for name, value in data.items() if name in kept}


def rule_error(code: LiteralString, rule: LiteralString, value: str) -> PydanticCustomError:
    """A validation error that states the rule and the value that breaks it."""
    return PydanticCustomError(code, rule, {"value": value})


def _to_utc(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise PydanticCustomError("time", "a time is ISO 8601 text, like 2001-05-01T14:05-04:00")
    if moment.tzinfo is None:
        raise PydanticCustomError("offset", "a time has an offset, like 14:05-04:00 or 18:05Z")
    if not EARLIEST <= moment <= LATEST:
        raise PydanticCustomError("range", "a time is between 2000 and 2100")
    return moment.astimezone(UTC)


UtcTime = Annotated[
    datetime,
    BeforeValidator(_to_utc),
    WithJsonSchema({"type": "string", "format": "date-time", "example": "2001-05-01T14:05-04:00"}),
]
