"""The progress of a replay: the last finished tick and its counts, on disk after every tick."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import numpy as np

from ontime.data.files import atomic_write
from ontime.settings import Settings


@dataclass
class Progress:
    """The last finished tick of a replay and its counts; on disk after every tick."""

    run: str
    start: str
    end: str
    last_tick: str
    requests: int = 0
    retried: int = 0
    failed: int = 0
    predictions: int = 0
    outcomes: int = 0
    log_loss_sum: float = 0.0  # over predictions with an outcome
    labelled: int = 0
    positives: int = 0
    pending_labels: dict[str, float] = field(default_factory=dict)  # instance id -> probability
    # Latency in ms with three digits -> prediction requests. Bounded; quantiles are within 0.5 %.
    latency_counts: dict[str, int] = field(default_factory=dict)
    champion: str = ""
    first_prediction_at: float | None = None  # Unix time
    seconds: float = 0.0

    @classmethod
    def begin(cls, start: datetime, end: datetime) -> "Progress":
        """A new replay. Its idempotency keys are random, so that nobody can use one before it."""
        return cls(uuid4().hex, start.isoformat(), end.isoformat(), start.isoformat())

    @classmethod
    def load(cls, path: Path) -> "Progress | None":
        """The progress on disk; None if there is none.

        Raises:
            ValueError: if another version of this class wrote it.
        """
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        if found.keys() != (names := {field.name for field in fields(cls)}):
            raise ValueError(
                f"the fields of {path} must be those of Progress; they differ in "
                f"{sorted(found.keys() ^ names)}: delete the file to start the replay again"
            )
        return cls(**found)

    def save(self, path: Path) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)))

    @property
    def finished(self) -> bool:
        return self.last_tick >= self.end

    def covers(self, start: datetime, end: datetime) -> bool:
        """True if this is the progress of a replay from start to end."""
        return (self.start, self.end) == (start.isoformat(), end.isoformat())

    def add_label(self, instance_id: str, label: bool) -> None:
        """Count an outcome and the log-loss of its prediction, if there was one."""
        probability = self.pending_labels.pop(instance_id, None)
        if probability is None:
            return
        self.labelled += 1
        self.positives += label
        self.log_loss_sum -= math.log(probability if label else 1 - probability)

    def add_latency(self, seconds: float) -> None:
        milliseconds = f"{1000 * seconds:.3g}"
        self.latency_counts[milliseconds] = self.latency_counts.get(milliseconds, 0) + 1

    def latency_ms(self, quantile: float) -> float:
        """A quantile of the latency of prediction requests."""
        values = np.repeat(
            [float(ms) for ms in self.latency_counts], [*self.latency_counts.values()]
        )
        return float(np.quantile(values, quantile))


def progress_file(settings: Settings) -> Path:
    return settings.data_dir / "replay" / "progress.json"


def prepared_file(settings: Settings) -> Path:
    """What the demo measured before the replay."""
    return settings.data_dir / "replay" / "prepared.json"


def system_page_file(settings: Settings) -> Path:
    """The System page of the API at the end of the replay."""
    return settings.data_dir / "replay" / "system.html"
