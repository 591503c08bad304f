"""The parts that the endpoints use: chosen here, started here, stopped here.

Whatever `create_app` is not given is the real one that the settings name; Feast, MLflow and torch
are imported only then.
"""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from ontime.decision_log import DecisionLog
from ontime.prediction_log import LogUnavailable, PredictionLog
from ontime.settings import Settings
from serving.champion import Champion
from serving.model_copies import ModelCopies
from serving.model_loader import Model, ModelLoader, Registry
from serving.observability import Metrics
from serving.predictor import FeatureReader, Predictor
from serving.real_parts import FeastReader, MlflowRegistry, load_trained_model
from serving.shadow import Shadow


@dataclass(frozen=True)
class Room:
    """Everything real that the endpoints use, made once at the start."""

    settings: Settings
    metrics: Metrics
    log: PredictionLog
    features: FeatureReader
    champion: Champion
    shadow: Shadow | None

    @property
    def predictor(self) -> Predictor:
        return Predictor(self.champion, self.features, self.log, self.metrics, self.shadow)


def open_room(
    settings: Settings,
    metrics: Metrics,
    features: FeatureReader | None,
    registry: Registry | None,
    log: PredictionLog | None,
    load_model: Callable[[Path], Model] | None,
) -> Room:
    """The one place where the real parts are chosen."""
    features = features or FeastReader(settings)
    log = log or PredictionLog(settings.log_url)
    registry = registry or MlflowRegistry(settings)
    copies = ModelCopies(settings.var / "champion")
    loader = ModelLoader(registry, copies, log, load_model or load_trained_model, features.numeric)
    champion = Champion(loader, metrics)
    shadow = Shadow(loader, champion, metrics) if settings.shadow else None
    return Room(settings, metrics, log, features, champion, shadow)


@contextmanager
def following(room: Room) -> Iterator[None]:
    """Start with the champion and follow its alias until the end."""
    stop = threading.Event()
    room.champion.start()
    if room.shadow is not None:
        room.shadow.start()
    if room.settings.champion_poll_s > 0:
        threading.Thread(target=_poll, args=(room, stop), name="poll", daemon=True).start()
    gc.freeze()  # what the start made stays: a full collection of it costs a request 0.2 s
    try:
        yield
    finally:
        stop.set()
        if room.shadow is not None:
            room.shadow.stop()
        room.log.close()


def _poll(room: Room, stop: threading.Event) -> None:
    while not stop.wait(room.settings.champion_poll_s):
        try:
            room.champion.poll()
            if room.shadow is not None:
                room.shadow.poll()
            show_last_look(room)
        except LogUnavailable as error:
            structlog.get_logger().warning("monitoring not shown", rule=str(error))
        except Exception:  # a bug in one round must not end all following ones
            structlog.get_logger().exception("poll")


def show_last_look(room: Room) -> None:
    """What the monitoring flow last wrote into the log, as metrics."""
    if (decision := DecisionLog(room.log).last()) is not None:
        room.metrics.looked(decision)
