"""A small real network over all of the problem's features, and instances at several hours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ontime.data.timestamps import parse_utc
from ontime.models.network import ModelConfig, Network
from ontime.models.preprocessing import Encoder
from ontime.models.serialization import TrainedModel
from ontime.problem import (
    EXAMPLE_AS_OF,
    EXAMPLE_INSTANCE,
    EXAMPLE_OUTCOME,
    FEATURE_SPEC,
    Instance,
    Outcome,
)
from ontime.storage.prediction_log import TIME_FIELDS

OUTCOME_TIMES = [name for name in (*TIME_FIELDS, "known_at") if name in Outcome.model_fields]


@dataclass
class AllFeatures:
    """Every feature is 1, except the first ones that are missing."""

    numeric: Sequence[str] = FEATURE_SPEC.numeric
    n_missing: int = 0

    def read(self, fields: Mapping[str, np.ndarray], as_of: np.ndarray) -> Any:
        numeric = np.ones((len(as_of), len(self.numeric)), np.float32)
        numeric[:, : self.n_missing] = np.nan
        missing = [list(self.numeric[: self.n_missing]) for _ in as_of]
        none: list[list[str]] = [[] for _ in as_of]
        return SimpleNamespace(
            fields=fields,
            numeric=numeric,
            missing=missing,
            stale=none,
            not_yet_known=none,
            age_seconds={},
        )


def small_model() -> TrainedModel:
    """Random weights; its probability depends on every feature."""
    torch.manual_seed(0)
    spec = FEATURE_SPEC
    rows = np.random.default_rng(0).normal(0, 50, (200, len(spec.numeric)))
    sizes = [1] * len(spec.categorical)
    network = Network(ModelConfig(hidden=8), Encoder.fit(rows), sizes, spec.shapes).eval()
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(3)  # one feature then changes the probability by several points
    known = {name: [str(EXAMPLE_INSTANCE[name])] for name in spec.categorical}
    return TrainedModel(network, spec, known, {"threshold": 0.5})


def shifted(body: Mapping[str, Any], times: Sequence[str], hours: int) -> dict[str, Any]:
    """JSON values with some times moved by hours."""
    moved = {t: (datetime.fromisoformat(body[t]) + timedelta(hours=hours)) for t in times}
    return dict(body) | {name: at.isoformat() for name, at in moved.items()}


def moment(hours: int) -> datetime:
    return parse_utc(EXAMPLE_AS_OF) + timedelta(hours=hours)


def instance_id(hours: int) -> str:
    return Instance.model_validate(shifted(EXAMPLE_INSTANCE, TIME_FIELDS, hours)).instance_id


def prediction_request(hours: int) -> dict[str, Any]:
    """The example, some days later: ids of a problem may hold the day only."""
    instance = shifted(EXAMPLE_INSTANCE, TIME_FIELDS, hours)
    return {"as_of": moment(hours).isoformat(), "instances": [instance]}


def outcome_report(hours: int) -> dict[str, Any]:
    return {"outcomes": [shifted(EXAMPLE_OUTCOME, OUTCOME_TIMES, hours)]}


def known_at(hours: int) -> datetime:
    return Outcome.model_validate(outcome_report(hours)["outcomes"][0]).known_at
