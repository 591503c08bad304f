"""What the endpoints depend on: built at start-up, kept in sync by a background thread."""

import gc
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import structlog
from fastapi import Depends, Header, Request

from ontime.errors import PredictionLogUnavailable
from ontime.settings import Settings
from ontime.storage.api_keys import LOCAL, ApiKeys, add_local_key
from ontime.storage.decision_log import DecisionLog
from ontime.storage.prediction_log import PredictionLog
from serving.batching import Batcher
from serving.bounded_registry import BoundedRegistry
from serving.keyring import REFRESH_S, KeyRing
from serving.model_cache import ModelCache
from serving.model_loader import Model, ModelLoader, Registry
from serving.model_manager import ModelManager
from serving.observability import Metrics
from serving.page_data import PageData
from serving.predictor import FeatureReader, Predictor
from serving.problems import NoApiKey, TooManyRequests
from serving.shadow import Shadow

MAX_EXPLANATIONS = 2  # at once, per process; each takes a core for a tenth of a second and 50 MB

log = structlog.get_logger()


@dataclass(frozen=True)
class AppState:
    settings: Settings
    metrics: Metrics
    log: PredictionLog
    keys: KeyRing
    manager: ModelManager
    shadow: Shadow | None
    predictor: Predictor
    batcher: Batcher
    page_data: PageData
    explanations: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(MAX_EXPLANATIONS)
    )

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Hold one of the few places of an explanation.

        Raises:
            TooManyRequests: if none is free.
        """
        if not self.explanations.acquire(blocking=False):
            raise TooManyRequests(f"at most {MAX_EXPLANATIONS} explanations are computed at once")
        try:
            yield
        finally:
            self.explanations.release()


def build_app_state(
    settings: Settings,
    metrics: Metrics,
    features: FeatureReader | None,
    registry: Registry | None,
    prediction_log: PredictionLog | None,
    load_model: Callable[[Path], Model] | None,
) -> AppState:
    """Whatever is None becomes the production service that the settings name."""
    if features is None or registry is None or load_model is None:
        from serving import adapters  # loads Feast, MLflow and torch

        features = features or adapters.FeastReader(settings)
        registry = registry or adapters.MlflowRegistry(settings)
        load_model = load_model or adapters.load_trained_model
    prediction_log = prediction_log or PredictionLog(settings.prediction_db_url)
    cache = ModelCache(settings.data_dir / "champion")
    registry = BoundedRegistry(registry)
    loader = ModelLoader(registry, cache, prediction_log, load_model, features.numeric)
    manager = ModelManager(loader, metrics)
    shadow = Shadow(loader, manager, metrics) if settings.shadow else None
    predictor = Predictor(manager, features, prediction_log, metrics, shadow)
    batcher = Batcher(predictor.predict, settings.batch_wait_ms / 1000)
    keys = KeyRing(ApiKeys(prediction_log), anonymous_scopes(settings))
    return AppState(
        settings=settings,
        metrics=metrics,
        log=prediction_log,
        keys=keys,
        manager=manager,
        shadow=shadow,
        predictor=predictor,
        batcher=batcher,
        page_data=PageData(prediction_log),
    )


def anonymous_scopes(settings: Settings) -> frozenset[str]:
    """What a request without a key may do: on a developer's machine, read pages and documents."""
    return frozenset({"read"} if settings.environment == "development" else ())


@contextmanager
def run_background_tasks(state: AppState) -> Iterator[None]:
    """Deploy the champion, and follow its alias until the end."""
    stop = threading.Event()
    migrated = _start(state)
    if state.shadow is not None:
        state.shadow.start()
    if state.settings.champion_poll_s > 0:
        threading.Thread(
            target=_poll, args=(state, stop, migrated), name="poll", daemon=True
        ).start()
    follow_keys = threading.Thread(target=_follow_keys, args=(state, stop), name="keys")
    follow_keys.start()
    state.batcher.start()
    gc.freeze()  # a full collection of what start-up allocated costs a request 0.2 s
    try:
        yield
    finally:
        stop.set()
        state.batcher.stop()
        follow_keys.join()
        if state.shadow is not None:
            state.shadow.stop()
        state.log.close()


def _start(state: AppState) -> bool:
    """Migrate the prediction log, read the keys and deploy the champion.

    False if the database is unreachable.

    Raises:
        NoApiKey: in production, if there is none.
    """
    try:
        state.log.migrate()
        if state.settings.environment == "development":
            created = not (state.settings.api_key or state.settings.api_key_file.exists())
            add_local_key(state.settings, state.keys.keys)
            if created:
                use = f'curl -H "Authorization: Bearer $(cat {state.settings.api_key_file})"'
                log.info("API key created", client=LOCAL, use=use)
        require_api_key(state.keys)
        migrated = True
    except PredictionLogUnavailable as error:
        log.warning("prediction log not migrated", detail=str(error))
        migrated = False
    state.manager.start()
    return migrated


def require_api_key(keys: KeyRing) -> None:
    """Read the keys.

    Raises:
        NoApiKey: if there is none.
        PredictionLogUnavailable: if the database does not respond.
    """
    if keys.refresh() == 0:
        raise NoApiKey(
            "in production the API starts with at least one API key, and there is none: run "
            "`python -m serving.keys create --client NAME --scopes predict,outcomes`"
        )


def _poll(state: AppState, stop: threading.Event, migrated: bool) -> None:
    while not stop.wait(state.settings.champion_poll_s):
        try:
            if migrated:
                state.manager.poll()
            else:
                migrated = _start(state)
            if state.shadow is not None:
                state.shadow.poll()
            publish_monitoring_metrics(state)
        except PredictionLogUnavailable as error:
            log.warning("monitoring metrics not published", detail=str(error))
        except Exception:  # one failed round must not end the thread
            log.exception("background task failed")


def _follow_keys(state: AppState, stop: threading.Event) -> None:
    while not stop.wait(REFRESH_S):
        with suppress(PredictionLogUnavailable):  # the keys read last stay; `/ready` reports it
            state.keys.refresh()


def publish_monitoring_metrics(state: AppState) -> None:
    """Export the evidence of the newest monitoring decision as metrics."""
    if (decision := DecisionLog(state.log).last()) is not None:
        state.metrics.update_monitoring_metrics(decision)


# Coroutines: FastAPI would run plain functions in its thread pool, at the cost of a switch.
async def _app_state(request: Request) -> AppState:
    state: AppState = request.app.state.app_state
    return state


AppStateDep = Annotated[AppState, Depends(_app_state)]
IDEMPOTENCY_KEY = re.compile(r"^[A-Za-z0-9._:-]{1,100}$")
IdempotencyKey = Annotated[str | None, Header(pattern=IDEMPOTENCY_KEY.pattern)]
