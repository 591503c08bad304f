"""The HTTP API. Run it with ``uvicorn --factory serving.app:create_app``.

Endpoints are plain functions that FastAPI runs in its thread pool: Feast's SQLite and Redis clients
and the log block, and measured no faster as coroutines. Importing this module is light; Feast,
MLflow and torch are imported at the start, and only by the parts that are not given.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.responses import FileResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ontime.prediction_log import PredictionLog
from ontime.settings import Settings
from serving import errors
from serving.champion import Champion
from serving.model_loader import Model, Registry
from serving.observability import Metrics, RequestLog, configure_logging
from serving.predictor import FeatureReader
from serving.reports import find_report, list_reports
from serving.room import Room, following, open_room
from serving.schemas import (
    ErrorAnswer,
    ExplainAnswer,
    ExplainRequest,
    HistoryRow,
    ModelAnswer,
    OutcomesAnswer,
    OutcomesRequest,
    PredictAnswer,
    PredictRequest,
    ReloadAnswer,
    Report,
)


async def _room(request: Request) -> Room:  # a coroutine, or it would cost a trip to a thread
    room: Room = request.app.state.room
    return room


async def _trace_id(request: Request) -> str:
    trace_id: str = request.state.trace_id
    return trace_id


RoomHere = Annotated[Room, Depends(_room)]
TraceId = Annotated[str, Depends(_trace_id)]
IdempotencyKey = Annotated[str | None, Header(pattern=r"^[A-Za-z0-9._:-]{1,100}$")]

routes = APIRouter(responses={422: {"model": ErrorAnswer}, 503: {"model": ErrorAnswer}})


@routes.post("/predict", responses={409: {"model": ErrorAnswer}})
def predict(
    request: PredictRequest,
    room: RoomHere,
    trace_id: TraceId,
    idempotency_key: IdempotencyKey = None,
) -> PredictAnswer:
    """How likely is each flight to arrive 15 or more minutes late, or not at all?"""
    return room.predictor.answer(request, idempotency_key, trace_id)


@routes.post("/explain")
def explain(request: ExplainRequest, room: RoomHere) -> ExplainAnswer:
    """What each group of inputs adds to one flight's probability (Shapley values, 0.2 s)."""
    return room.predictor.explain(request)


@routes.post("/outcomes")
def outcomes(request: OutcomesRequest, room: RoomHere) -> OutcomesAnswer:
    """What happened; idempotent by flight, the first report stands."""
    counts = room.log.record_outcomes([outcome.as_logged() for outcome in request.outcomes])
    newest = max(outcome.known_at for outcome in request.outcomes)
    room.metrics.newest_outcome.set(newest.timestamp())
    room.metrics.reported(counts)
    return OutcomesAnswer.model_validate(counts)


@routes.get("/model")
def model(room: RoomHere) -> ModelAnswer:
    """The version that serves, and what went wrong following the alias, if anything did."""
    return describe(room.champion)


@routes.get("/model/history")
def history(room: RoomHere) -> list[HistoryRow]:
    """Which version answered when, and why it changed; oldest first."""
    return [HistoryRow.model_validate(row) for row in room.log.history()]


@routes.post("/model/reload")
def reload(room: RoomHere) -> ReloadAnswer:
    """Follow the alias now instead of at the next poll."""
    swapped = room.champion.follow()
    serving = room.champion.serving
    return ReloadAnswer(model_version=serving.version if serving else None, swapped=swapped)


@routes.get("/health")
async def health() -> dict[str, str]:
    """The process lives."""
    return {"status": "alive"}


@routes.get("/ready")
def ready(room: RoomHere) -> dict[str, str]:
    """A champion is loaded, the online store answers, the log answers."""
    return {"status": "ready", "model_version": room.predictor.check()}


@routes.get("/metrics")
def metrics(room: RoomHere) -> Response:
    """For Prometheus."""
    return Response(room.metrics.as_text(), media_type=CONTENT_TYPE_LATEST)


@routes.get("/reports")
def reports(room: RoomHere) -> list[Report]:
    """What the monitoring wrote, newest first."""
    return list_reports(room.settings.reports_dir)


@routes.get("/reports/{name:path}", responses={404: {"model": ErrorAnswer}})
def report(name: str, room: RoomHere) -> FileResponse:
    return FileResponse(find_report(room.settings.reports_dir, name))


def create_app(
    settings: Settings | None = None,
    *,
    features: FeatureReader | None = None,
    registry: Registry | None = None,
    log: PredictionLog | None = None,
    load_model: Callable[[Path], Model] | None = None,
) -> FastAPI:
    """The app; every part that is not given is the real one that the settings name."""
    settings = settings or Settings()
    numbers = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.room = room = open_room(settings, numbers, features, registry, log, load_model)
        with following(room):
            yield

    configure_logging()
    app = FastAPI(title="ontime", lifespan=lifespan)
    app.include_router(routes)
    app.add_middleware(RequestLog)
    numbers.install(app)
    errors.install(app)
    return app


def describe(champion: Champion) -> ModelAnswer:
    if (serving := champion.serving) is None:
        return ModelAnswer(last_failure=champion.last_failure)
    return ModelAnswer(
        model_version=serving.version,
        serving_since=serving.since,
        trained_through=serving.trained_through,
        threshold=serving.model.metadata.get("threshold"),
        scores=serving.model.metadata.get("scores"),
        last_failure=champion.last_failure,
    )
