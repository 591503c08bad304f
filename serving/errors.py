"""Errors become HTTP here and nowhere else: always rule, value and remedy, in one shape."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ontime.prediction_log import LogUnavailable
from serving.champion import NoChampion
from serving.model_loader import ModelRefused, RegistryUnavailable
from serving.observability import TRACE_HEADER
from serving.predictor import FeaturesUnavailable, KeyReused
from serving.schemas import Problem

SHOWN_CHARACTERS = 80  # of an offending value
SHOWN_PROBLEMS = 20  # of one request

# What a caller gets for an error of ours: status, and what helps.
OURS: dict[type[Exception], tuple[int, str]] = {
    NoChampion: (503, "run `make train` (or `make demo`), then POST /model/reload"),
    FeaturesUnavailable: (503, "start the online store, or run `make features`, and ask again"),
    LogUnavailable: (503, "start the log's database, or free its disk, and ask again"),
    RegistryUnavailable: (503, "start the model registry; the model that serves goes on"),
    ModelRefused: (503, "promote another version; the model that serves goes on"),
    KeyReused: (409, "use a new Idempotency-Key for a new request"),
}

log = structlog.get_logger()


def install(app: FastAPI) -> None:
    for kind in OURS:
        app.add_exception_handler(kind, _ours)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _unexpected)


def _ours(request: Request, error: Exception) -> Response:
    status, remedy = next(OURS[kind] for kind in type(error).__mro__ if kind in OURS)
    log.warning("refused", status=status, rule=str(error))
    return _answer(status, [Problem(rule=str(error), remedy=remedy)])


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(422, [_problem(e) for e in error.errors()[:SHOWN_PROBLEMS]])


def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(error.status_code, [Problem(rule=str(error.detail))], error.headers)


def _unexpected(request: Request, error: Exception) -> Response:
    """Outside of all middleware, so that the trace id is taken from the request by hand."""
    trace_id = request.state.trace_id
    log.error("unexpected", exc_info=error, trace_id=trace_id)
    problem = Problem(
        rule="an answer that cannot be given correctly is not given",
        remedy=f"see the log under trace_id {trace_id}",
    )
    return _answer(500, [problem], {TRACE_HEADER: trace_id})


def _problem(error: Mapping[str, Any]) -> Problem:
    """Pydantic's error as ours; `loc` is like ("body", "flights", 3, "carrier")."""
    context = error.get("ctx", {})
    if error["type"] == "json_invalid":
        return Problem(rule=f"the body is JSON; at character {error['loc'][1]}: {context['error']}")
    names = [part for part in error["loc"][1:] if isinstance(part, str)]
    flight = next((part for part in error["loc"] if isinstance(part, int)), None)
    names = names if flight is None else names[1:]  # "flights" is where, not which field
    return Problem(
        rule=error["msg"],
        field=_shown(".".join(names)) or None,
        flight=flight,
        value=_shown(context.get("value", error.get("input"))),
    )


def _shown(value: Any) -> Any:
    """The value as JSON can carry it: short, and NaN as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _answer(
    status: int, problems: Sequence[Problem], headers: Mapping[str, str] | None = None
) -> Response:
    body = {"errors": [problem.model_dump(exclude_none=True) for problem in problems]}
    # json.dumps escapes what is not ASCII: a lone surrogate in a value must not break the answer.
    return Response(json.dumps(body), status, headers, "application/json")
