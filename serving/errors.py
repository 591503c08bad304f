"""Exceptions become RFC 9457 problem details here and nowhere else."""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ontime.errors import (
    OnlineStoreUnavailable,
    PredictionLogUnavailable,
    RegistryUnavailable,
    Unavailable,
)
from serving.batching import QueueFull
from serving.model_loader import ModelRejected
from serving.model_manager import NoChampion, SyncInProgress
from serving.observability import TRACE_HEADER
from serving.predictor import IdempotencyKeyConflict
from serving.problems import (
    HostNotAllowed,
    NotAllowed,
    NotAuthenticated,
    OutcomeTooEarly,
    TooManyRequests,
)
from serving.schemas import PROBLEM_JSON, FieldError, ProblemDetails

MAX_VALUE_CHARACTERS = 80
MAX_ERRORS = 20  # listed in one response
LARGEST_NUMBER = 1e15  # as a JSON number; an integer of JSON text may have hundreds of digits

# Status and hint of the response. Its type is the exception's name: /problems/no-champion.
ERROR_RESPONSES: dict[type[Exception], tuple[int, str]] = {
    NoChampion: (
        503,
        "run `make train`, or see the error of the last sync in GET /model",
    ),
    OnlineStoreUnavailable: (503, "start the online store, or run `make features`, and retry"),
    PredictionLogUnavailable: (503, "start the database, or free its disk, and retry"),
    RegistryUnavailable: (503, "start the model registry; the deployed model stays"),
    ModelRejected: (503, "promote another version; the deployed model stays"),
    QueueFull: (503, "retry after the time in Retry-After, or add workers"),
    SyncInProgress: (409, "read GET /model, and retry when that sync has ended"),
    HostNotAllowed: (400, "use a name of ONTIME_ALLOWED_HOSTS, or add this one"),
    NotAuthenticated: (401, "send 'Authorization: Bearer KEY'; `make keys` creates one"),
    NotAllowed: (403, "use a key with that scope; `make keys` creates one"),
    TooManyRequests: (429, "retry after the time in Retry-After"),
    IdempotencyKeyConflict: (409, "use a new Idempotency-Key for a new request"),
}

log = structlog.get_logger()


def install(app: FastAPI) -> None:
    for kind in ERROR_RESPONSES:
        app.add_exception_handler(kind, domain_error_response)
    app.add_exception_handler(OutcomeTooEarly, _handle_early_outcome)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(Exception, _handle_unexpected_error)


def domain_error_response(request: Request, error: Exception) -> Response:
    """The response to one of `ERROR_RESPONSES`."""
    kind = next(kind for kind in type(error).__mro__ if kind in ERROR_RESPONSES)
    status, hint = ERROR_RESPONSES[kind]
    log.warning("request failed", status=status, detail=str(error))
    name = re.sub(r"\B(?=[A-Z])", "-", kind.__name__).lower()
    headers = {}
    if isinstance(error, QueueFull | TooManyRequests):
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after_s", 1)))
    if kind is NotAuthenticated:
        headers["WWW-Authenticate"] = "Bearer"
    detail = error.public_detail if isinstance(error, Unavailable) else str(error)
    return _problem(status, detail, name, headers, hint=hint)


def _handle_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [_field_error(each) for each in error.errors()[:MAX_ERRORS]]
    detail = f"the request breaks {len(errors)} rule(s) and was rejected as a whole"
    return _problem(422, detail, "invalid-request", errors=errors)


def _handle_early_outcome(request: Request, error: Exception) -> Response:
    assert isinstance(error, OutcomeTooEarly)
    field = FieldError(field=error.field, detail=str(error), value=error.value)
    detail = "the request breaks 1 rule(s) and was rejected as a whole"
    return _problem(422, detail, "invalid-request", errors=[field])


def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail), headers=error.headers)


def _handle_unexpected_error(request: Request, error: Exception) -> Response:
    trace_id = request.state.trace_id  # this handler runs outside of the middleware
    log.error("unexpected error", exc_info=error, trace_id=trace_id)
    detail = "an unexpected error occurred, and no prediction was returned"
    hint = f"search the API's log for trace_id {trace_id}"
    return _problem(500, detail, "internal-error", hint=hint, headers={TRACE_HEADER: trace_id})


def _field_error(error: Mapping[str, Any]) -> FieldError:
    """Pydantic's error; its `loc` is like ("body", "instances", 3, "name")."""
    context, location = error.get("ctx", {}), error["loc"][1:]
    if error["type"] == "json_invalid":
        return FieldError(detail=f"the body is JSON; character {location[0]}: {context['error']}")
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return FieldError(
        field=_truncate(path.removeprefix(".")) or None,
        detail=error["msg"],
        value=_truncate(context.get("value", error.get("input"))),
    )


def _truncate(value: Any) -> Any:
    """Short scalars as JSON has them; everything else as text."""
    text = value if isinstance(value, str) else reprlib.repr(value)  # of the first few items
    if len(text) > MAX_VALUE_CHARACTERS:
        return f"{text[:MAX_VALUE_CHARACTERS]}…"
    is_json = value is None or (isinstance(value, int | float) and abs(value) < LARGEST_NUMBER)
    return value if is_json else text


def _problem(
    status: int,
    detail: str,
    name: str = "",
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """Without a name, the status alone is the type of the problem."""
    body = ProblemDetails(
        type=f"/problems/{name}" if name else "about:blank",
        title=name.replace("-", " ").capitalize() or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        **members,
    )
    # json.dumps escapes non-ASCII characters: a value may hold a lone surrogate.
    text = json.dumps(body.model_dump(exclude_none=True))
    return Response(text, status, headers, PROBLEM_JSON)
