"""The schema of ``model.json``, checked before anything is allocated for the model.

Importing this module loads no torch. The bounds are far above what `make tune` searches; with them
the largest network has a few hundred MB, whatever a file asks for.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, ValidationError

from ontime.data.api_types import UtcTime
from ontime.errors import ModelError

MAX_INPUTS = 2_000
Name = Annotated[str, Field(max_length=200)]
Names = Annotated[list[Name], Field(max_length=MAX_INPUTS)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)]


class ModelMetadata(BaseModel):
    """What serving reads of a model's metadata. Other keys are allowed and not read."""

    trained_through: UtcTime | None = None
    threshold: Probability | None = None
    scores: dict[str, Any] | None = None
    config: dict[str, Any] | None = None


class NetworkSize(BaseModel):
    """The arguments of `ontime.models.network.ModelConfig`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    hidden: int = Field(ge=1, le=4_096)
    layers: int = Field(ge=1, le=16)
    members: int = Field(ge=1, le=64)
    embedding: int = Field(ge=1, le=256)
    queries: int = Field(ge=1, le=16)
    event_width: int = Field(ge=1, le=256)


class ModelDescription(BaseModel):
    """``model.json``: what is needed to build the network before its weights are read."""

    format: int
    weights_sha256: Sha256
    network: NetworkSize
    metadata: ModelMetadata
    numeric: Names
    categorical: Names
    groups: Annotated[dict[Name, Names], Field(max_length=MAX_INPUTS)]
    sequences: Annotated[dict[Name, Annotated[StrictInt, Field(ge=1)]], Field(max_length=100)]
    vocabularies: dict[Name, Annotated[list[str], Field(max_length=100_000)]]


def check_description(description: object) -> None:
    """Raise ModelError unless the content of a ``model.json`` has the schema."""
    _check(ModelDescription, description, "model.json")


def check_metadata(metadata: object) -> None:
    """Raise ModelError unless a model's metadata has the schema."""
    _check(ModelMetadata, metadata, "metadata")


def _check(schema: type[BaseModel], value: object, name: str) -> None:
    try:
        schema.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join([name, *map(str, first["loc"])])
        found = repr(first["input"])[:80]
        raise ModelError(f"{path} breaks a rule: {first['msg']}; it is {found}") from error
