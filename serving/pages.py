"""The pages for people: the board, one instance, the loop, the system.

Server-rendered templates and one hand-written script; nothing is loaded from another host. The
problem's texts and columns come from `ontime.problem`, whose templates take precedence. All queries
are bounded and cached (`serving.page_data`), and no page writes to the prediction log.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from ontime import problem
from ontime.data.api_types import StrictModel, UtcTime
from ontime.errors import Unavailable
from serving import page_content
from serving.dependencies import AppState, AppStateDep
from serving.errors import ERROR_RESPONSES
from serving.model_manager import NoChampion
from serving.page_data import BOARD_S
from serving.predictor import instance_columns
from serving.problems import TooManyRequests
from serving.schemas import PROBLEM_RESPONSE, ExplainRequest

HERE = Path(__file__).parent
STATIC_FILES = StaticFiles(directory=HERE / "static")
POLL_S = 1.0  # between two looks at the log
# A stream ends after this time and the browser connects again, so that a shutdown, which waits for
# open connections, takes seconds.
STREAM_S = 5.0
MAX_CHANGES = 200
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGE_ERRORS = (HTTPException, Unavailable, NoChampion, TooManyRequests)


class PageRoute(APIRoute):
    """A route whose errors are pages, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except PAGE_ERRORS as error:
                if request.method != "GET":
                    raise
                return _error_page(error, request.app.state.app_state)

        return handle


routes = APIRouter(route_class=PageRoute, include_in_schema=False)


class WhatIfRequest(StrictModel):
    """A logged prediction, and the inputs to change."""

    prediction_id: Annotated[str, Field(max_length=200)]
    changes: Annotated[
        dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=MAX_CHANGES)
    ]


@routes.get("/")
def board(state: AppStateDep, at: UtcTime | None = None) -> HTMLResponse:
    """The board, at the newest prediction time or at another one."""
    rows = Markup(_board_html(state, at))  # noqa: S704 - a template of ours, which escapes
    return _page("board.html", state, active="board", live=at is None, rows=rows)


@routes.get("/board")
def board_fragment(state: AppStateDep, at: UtcTime | None = None) -> HTMLResponse:
    """The board without the page around it; the script puts it in place of the old one."""
    return HTMLResponse(_board_html(state, at), headers=HEADERS)


@routes.get("/events")
async def events(request: Request) -> Response:
    """Server-sent events: one whenever the board changes."""
    state: AppState = request.app.state.app_state
    streams = state.page_data.streams
    if not streams.acquire(blocking=False):
        return Response("too many streams: poll", 503, {"Retry-After": "5"})

    async def stream() -> AsyncIterator[str]:
        try:
            yield "retry: 500\n\n"
            last = request.headers.get("last-event-id", "")
            for _ in range(round(STREAM_S / POLL_S)):
                found = await run_in_threadpool(_board_digest, state)
                if found != last:
                    last = found
                    yield f"id: {found}\nevent: board\ndata: {found}\n\n"
                await asyncio.sleep(POLL_S)
        finally:
            streams.release()

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream(), headers=headers, media_type="text/event-stream")


@routes.get("/instances/{instance_id:path}")
def instance(instance_id: str, state: AppStateDep) -> HTMLResponse:
    """One instance: why, what the model saw, and what it would say to other inputs."""
    content = page_content.instance_page(state, instance_id)
    return _page("instance.html", state, active="board", **content)


@routes.get("/ask")
def ask(state: AppStateDep) -> HTMLResponse:
    """A form for an instance of one's own."""
    clock = state.page_data.clock()
    rows = state.page_data.board(clock)["ahead"] if clock else []
    example = rows[-1]["instance"] if rows else problem.EXAMPLE_INSTANCE
    as_of = clock or datetime.fromisoformat(problem.EXAMPLE_AS_OF)
    fields = problem.Instance.model_json_schema()["properties"]
    return _page("ask.html", state, active="ask", fields=fields, example=example, as_of=as_of)


@routes.post("/ask", responses={422: PROBLEM_RESPONSE})
def answer(request: ExplainRequest, state: AppStateDep) -> HTMLResponse:
    """A fragment: the prediction for the visitor's instance, with its reasons. It is not logged."""
    deployed, _ = state.manager.current()
    fields = instance_columns([request.instance])
    read = state.predictor.read([request.instance], [request.as_of])
    values = dict(zip(state.predictor.features.numeric, read.numeric[0].tolist(), strict=True))
    with state.explaining():
        why = page_content.why(deployed, fields, values)
    return _page("answer.html", state, why=why, read=read)


@routes.post("/what-if", responses={404: PROBLEM_RESPONSE, 422: PROBLEM_RESPONSE})
def what_if(request: WhatIfRequest, state: AppStateDep) -> dict[str, Any]:
    """The prediction with some inputs changed. It is not logged."""
    found = page_content.what_if(state, request.prediction_id, request.changes)
    return found | {"decision_text": problem.DECISION_TEXTS[found["decision"]]}


@routes.get("/loop")
def loop(state: AppStateDep) -> HTMLResponse:
    """Versions, decisions with their reasons, and how good the predictions were."""
    return _page("loop.html", state, active="loop", **page_content.loop_page(state))


@routes.get("/loop/card")
def card(state: AppStateDep) -> HTMLResponse:
    """The model card of the deployed version."""
    return _page("card.html", state, active="loop", **page_content.card_page(state))


@routes.get("/system")
def system(state: AppStateDep) -> HTMLResponse:
    """Latency, throughput, errors, feature age and label delay."""
    figures = page_content.system_figures(state)
    return _page("system.html", state, active="system", **figures)


@routes.get("/system/figures")
def system_fragment(state: AppStateDep) -> HTMLResponse:
    return _page("system_figures.html", state, **page_content.system_figures(state))


def _board(state: AppState, at: datetime | None) -> dict[str, Any]:
    clock = at or state.page_data.clock()
    content = state.page_data.board(clock) if clock else None
    step = problem.PREDICTION_INTERVAL
    return {
        "board": content,
        "before": clock and clock - step,
        "after": clock + step if clock and at and at < (state.page_data.clock() or at) else None,
    }


def _board_html(state: AppState, at: datetime | None) -> str:
    """Rendered once per second, however many watch: rendering costs more than the query."""

    def render() -> str:
        return _render("board_rows.html", state, live=at is None, **_board(state, at))

    return state.page_data.cache.get(("board html", at), BOARD_S, render)


def _board_digest(state: AppState) -> str:
    return hashlib.blake2b(_board_html(state, None).encode(), digest_size=8).hexdigest()


def _render(template: str, state: AppState, **context: Any) -> str:
    champion = state.manager.deployed
    return _templates().get_template(template).render(champion=champion, **context)


def _page(template: str, state: AppState, status: int = 200, **context: Any) -> HTMLResponse:
    return HTMLResponse(_render(template, state, **context), status, HEADERS)


def _error_page(error: Exception, state: AppState) -> HTMLResponse:
    hint = ""
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
    else:
        status, hint = ERROR_RESPONSES[type(error)]
        detail = error.public_detail if isinstance(error, Unavailable) else str(error)
    return _page("error.html", state, status, code=status, detail=detail, hint=hint, active="")


@cache
def _templates() -> Environment:
    """The problem's folder comes first: a file there replaces the template of the same name."""
    folders = [problem.TEMPLATES_FOLDER, HERE / "templates"]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "problem": problem,
        "board_row": problem.board_row,
        "outcome_text": problem.outcome_text,
        "group_name": lambda group: problem.GROUP_NAMES.get(group, group),
        "local_input": lambda text: _local(datetime.fromisoformat(text), "%Y-%m-%dT%H:%M"),
    }
    environment.filters |= {
        "local": _local,
        "utc_offset": _utc_offset,
        "percent": lambda share: f"{100 * share:.0f} %",
        "points": lambda share: f"{100 * share:+.1f}",
        "duration": _duration,
        "number": _number,
    }
    return environment


def _local(moment: datetime, form: str) -> str:
    return moment.astimezone(ZoneInfo(problem.LOCAL_ZONE)).strftime(form)


def _utc_offset(moment: datetime) -> str:
    return moment.astimezone(ZoneInfo(problem.LOCAL_ZONE)).isoformat()[-6:]


def _duration(span: float | timedelta | None) -> str:
    """A span in the unit that a person would choose."""
    if span is None:
        return "unknown"
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    for size, unit in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1000:.0f} ms" if 0 < seconds < 2 else f"{seconds:.0f} s"


def _number(value: float | str | None) -> str:
    """Three digits are enough to read."""
    if value is None:
        return "missing"
    return f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value}"
