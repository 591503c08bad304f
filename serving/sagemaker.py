"""The API as a SageMaker endpoint: ``docker run IMAGE serve``, or ``python -m serving.sagemaker``.

SageMaker asks for port 8080, ``GET /ping`` within 2 seconds and ``POST /invocations`` within 60. It
checks callers by IAM and strips their headers, so that the idempotency key is a field of the body.
The settings are the variables of the SageMaker model. All other endpoints stay, for the container's
own network.
"""

import asyncio
import os
from datetime import UTC, datetime
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from ontime.settings import Settings
from ontime.storage.api_keys import ApiKey
from serving import app, server
from serving.batching import Batcher, Job, scoped_key
from serving.dependencies import AppState
from serving.keyring import Caller
from serving.schemas import PROBLEM_RESPONSE, PredictRequest, PredictResponse

APP = "serving.sagemaker:create_app"
PING_TIMEOUT_S = 1.5  # SageMaker waits for 2 seconds
routes = APIRouter(responses=dict.fromkeys((422, 500, 503), PROBLEM_RESPONSE))


class InvocationRequest(PredictRequest):
    """A prediction request with its idempotency key."""

    idempotency_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,100}$")] | None = None

    def without_key(self) -> PredictRequest:
        """The same request as ``/predict`` receives it, so that a retry may use either."""
        given = self.model_fields_set - {"idempotency_key"}
        fields = {name: getattr(self, name) for name in PredictRequest.model_fields}
        return PredictRequest.model_construct(_fields_set=given, **fields)


@routes.get("/ping")
async def ping(http: Request) -> JSONResponse:
    """200 if a prediction would succeed now."""
    state: AppState = http.app.state.app_state
    try:
        version = await asyncio.wait_for(
            asyncio.to_thread(state.predictor.check), timeout=PING_TIMEOUT_S
        )
    except TimeoutError:
        return JSONResponse({"status": "the services did not respond in time"}, 503)
    return JSONResponse({"status": "ready", "model_version": version})


@routes.post("/invocations")
async def invocations(request: InvocationRequest, http: Request) -> PredictResponse:
    """``POST /predict`` with the idempotency key in the body."""
    caller = http.state.caller
    key = scoped_key(caller, request.idempotency_key)
    job = Job(request.without_key(), key, http.state.trace_id, caller)
    batcher: Batcher = http.app.state.app_state.batcher
    return await batcher.submit(job)


def create_app(settings: Settings | None = None, **services: Any) -> FastAPI:
    """The API with SageMaker's two endpoints; the arguments are those of `serving.app`."""
    client = ApiKey("", "", "sagemaker", frozenset({"predict"}), True, 1, 1, datetime.now(UTC))
    caller = Caller(client)  # checked and limited by SageMaker
    trusted = dict.fromkeys(("/ping", "/invocations"), caller)
    api = app.create_app(settings, trusted=trusted, **services)
    api.include_router(routes)
    return api


def main(factory: str = APP) -> None:
    """Serve on all addresses, at the port that SageMaker names."""
    port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
    running = uvicorn.Server(server.server_config(factory, host="0.0.0.0", port=port))  # noqa: S104
    running.run()
    if not running.started:
        raise SystemExit(3)


if __name__ == "__main__":
    main()
