"""The HTTP API. Run it with ``python -m serving.server``.

Predictions wait as coroutines for the thread that processes batches. The other endpoints that use a
database are plain functions in FastAPI's thread pool. Importing this module loads neither Feast nor
MLflow nor torch.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from ontime.problem import QUESTION
from ontime.settings import Settings
from ontime.storage.outcomes import OutcomeLog
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.serving_history import ServingHistory
from serving import errors, pages
from serving.access import AccessMiddleware, describe_security
from serving.batching import Batcher, Job, scoped_key
from serving.body_limit import BodyLimitMiddleware
from serving.dependencies import (
    IDEMPOTENCY_KEY,
    AppStateDep,
    IdempotencyKey,
    anonymous_scopes,
    build_app_state,
    run_background_tasks,
)
from serving.keyring import Caller
from serving.model_loader import Model, Registry
from serving.observability import Metrics, RequestMiddleware, configure_logging
from serving.offline_docs import add_docs
from serving.outcome_rules import logged_outcomes
from serving.predictor import FeatureReader
from serving.reports import REPORT_HEADERS, find_report, list_reports
from serving.schemas import (
    PROBLEM_RESPONSE,
    CorrectionsResponse,
    DeploymentRow,
    ExplainRequest,
    ExplainResponse,
    ModelResponse,
    OutcomesRequest,
    OutcomesResponse,
    PredictRequest,
    PredictResponse,
    ReloadResponse,
    Report,
)

routes = APIRouter(responses=dict.fromkeys((401, 403, 422, 429, 500, 503), PROBLEM_RESPONSE))
# Otherwise FastAPI asks OpenTelemetry for its providers on every request, and none is configured.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
JSON = "application/json"
METRICS_RESPONSE: dict[str, Any] = {"content": {CONTENT_TYPE_LATEST: {}}}
REPORT_RESPONSE: dict[str, Any] = {"content": {"text/html": {}, "application/json": {}}}
WITH_BODY: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 413), PROBLEM_RESPONSE)


class PredictRoute(APIRoute):
    """Responds to a valid request itself; FastAPI's handler responds to all others.

    Its steps for parameters, dependencies and response models take longer than the validation.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def respond(http: Request) -> Response:
            key = http.headers.get("idempotency-key")
            valid_key = key is None or IDEMPOTENCY_KEY.fullmatch(key)
            if http.headers.get("content-type") != JSON or not valid_key:
                return await handle(http)
            try:
                request = PredictRequest.model_validate_json(await http.body())
            except (ValidationError, ClientDisconnect):
                return await handle(http)
            response = await predict(request, http, key)
            return Response(response.model_dump_json(), media_type=JSON)

        return respond


async def predict(
    request: PredictRequest, http: Request, idempotency_key: IdempotencyKey = None
) -> PredictResponse:
    """The probability of the positive label, and the decision, for each instance."""
    # Not by Depends: FastAPI would resolve two dependencies for every prediction.
    caller = http.state.caller
    job = Job(request, scoped_key(caller, idempotency_key), http.state.trace_id, caller)
    batcher: Batcher = http.app.state.app_state.batcher
    return await batcher.submit(job)


routes.add_api_route(
    "/predict",
    predict,
    methods=["POST"],
    responses=WITH_BODY | {409: PROBLEM_RESPONSE},
    route_class_override=PredictRoute,
)


@routes.post("/explain", responses=WITH_BODY)
def explain(request: ExplainRequest, state: AppStateDep) -> ExplainResponse:
    """The contribution of each group of inputs to one probability: its Shapley value."""
    with state.explaining():
        return state.predictor.explain(request)


@routes.post("/outcomes", responses=WITH_BODY)
def outcomes(request: OutcomesRequest, http: Request, state: AppStateDep) -> OutcomesResponse:
    """Report labels of predicted instances. The first report of an outcome is kept."""
    log = OutcomeLog(state.log)
    counts = log.record(logged_outcomes(log, request), http.state.caller.client)
    state.metrics.record_outcomes(counts)
    return OutcomesResponse.model_validate(counts)


@routes.post("/outcomes/corrections", responses=WITH_BODY)
def correct(request: OutcomesRequest, http: Request, state: AppStateDep) -> CorrectionsResponse:
    """Replace reported outcomes that were wrong; the replaced reports are kept beside them."""
    log = OutcomeLog(state.log)
    reporter = http.state.caller.client
    corrected = [o.instance_id for o in logged_outcomes(log, request) if log.correct(o, reporter)]
    return CorrectionsResponse(corrected=corrected)


@routes.get("/model")
def model(state: AppStateDep) -> ModelResponse:
    """The deployed version, and the error of the last sync with the registry, if it failed."""
    about: dict[str, Any] = {}
    if (deployed := state.manager.deployed) is not None:
        about = {"model_version": deployed.version, "serving_since": deployed.since}
        about |= {"vocabularies": deployed.model.vocabularies}
        about = deployed.model.metadata | about | {"canary": None}
        if (canary := deployed.canary) is not None:
            about["canary"] = {"model_version": canary.version, "share": canary.change.share}
    return ModelResponse.model_validate(about | {"last_sync_error": state.manager.last_sync_error})


@routes.get("/model/history")
def history(state: AppStateDep) -> list[DeploymentRow]:
    """Which version was deployed when, and why it changed; oldest first."""
    return [DeploymentRow.model_validate(row) for row in ServingHistory(state.log).rows()]


@routes.post("/model/reload", responses={409: PROBLEM_RESPONSE})
def reload(state: AppStateDep) -> ReloadResponse:
    """Sync with the registry now instead of at the next poll; 409 while another sync runs."""
    swapped = state.manager.sync_with_registry()
    if state.shadow is not None:
        state.shadow.poll()
    deployed = state.manager.deployed
    return ReloadResponse(model_version=deployed.version if deployed else None, swapped=swapped)


@routes.get("/health")
async def health() -> dict[str, str]:
    """The process runs."""
    return {"status": "alive"}


@routes.get("/ready")
def ready(state: AppStateDep) -> dict[str, str]:
    """A champion is deployed, and the online store and the prediction log respond."""
    return {"status": "ready", "model_version": state.predictor.check()}


@routes.get("/metrics", response_class=Response, responses={200: METRICS_RESPONSE})
def metrics(state: AppStateDep) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(state.metrics.as_text(), media_type=CONTENT_TYPE_LATEST)


@routes.get("/reports")
def reports(state: AppStateDep) -> list[Report]:
    """Reports of the monitoring, newest first."""
    return list_reports(state.settings.reports_dir)


@routes.get(
    "/reports/{name:path}",
    response_class=FileResponse,
    responses={200: REPORT_RESPONSE, 404: PROBLEM_RESPONSE},
)
def report(name: str, state: AppStateDep) -> FileResponse:
    return FileResponse(find_report(state.settings.reports_dir, name), headers=REPORT_HEADERS)


def create_app(
    settings: Settings | None = None,
    *,
    features: FeatureReader | None = None,
    registry: Registry | None = None,
    log: PredictionLog | None = None,
    load_model: Callable[[Path], Model] | None = None,
    trusted: Mapping[str, Caller] | None = None,
) -> FastAPI:
    """The app; tests replace production services by the arguments.

    `trusted`: paths whose requests need no key, each with the caller that they count as.
    """
    settings = settings or Settings()
    app_metrics = Metrics(settings.metrics_dir)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = build_app_state(settings, app_metrics, features, registry, log, load_model)
        app.state.app_state = state
        with run_background_tasks(state):
            yield

    configure_logging()
    app = FastAPI(
        title="ontime",
        description=QUESTION,
        lifespan=lifespan,
        telemetry=NO_TELEMETRY,
        docs_url=None,
        redoc_url=None,
    )
    # Not by `include_router`, whose routers search for the route of a request twice.
    app.router.routes += [*routes.routes, *pages.routes.routes]
    app.mount("/static", pages.STATIC_FILES)
    generate = app.openapi
    app.openapi = lambda: describe_security(generate(), anonymous_scopes(settings))  # type: ignore[method-assign]
    add_docs(app)
    app.add_middleware(AccessMiddleware, trusted=trusted or {}, hosts=settings.allowed_hosts)
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestMiddleware, metrics=app_metrics)
    errors.install(app)
    return app
