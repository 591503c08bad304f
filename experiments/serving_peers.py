"""Peers of the API for the serving benchmark, as uvicorn factories.

`bare` is the ceiling: FastAPI with the API's schemas and a constant response. `naive` is what a
tutorial writes: Feast's own store by feature references, a data frame, and the network.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastapi import FastAPI
from feast import FeatureStore, RepoConfig
from pydantic import ValidationError

from ontime.data.timestamps import column_arrays, utc_datetime64
from ontime.features.feast_config import repo_config
from ontime.models.serialization import TrainedModel
from ontime.problem import (
    ENTITY_KEYS,
    FEATURE_SPEC,
    VIEWS,
    Instance,
    entity_key_columns,
    request_features,
)
from ontime.settings import Settings
from serving.schemas import PredictedInstance, PredictRequest, PredictResponse

FOLDER = "BENCHMARK_FOLDER"  # environment variable: where `benchmark_serving` put store and model


def feast_store(folder: Path) -> FeatureStore:
    """A store as Feast's documentation sets it up: its own SQLite store, a registry in a file."""
    ours = repo_config(Settings())
    return FeatureStore(
        config=RepoConfig(
            project=ours.project,
            provider="local",
            registry={"registry_type": "file", "path": str(folder / "registry.db")},
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store=ours.offline_config,
            entity_key_serialization_version=3,
        )
    )


def is_valid(body: str) -> bool:
    """True if the API accepts the body of a prediction request."""
    try:
        PredictRequest.model_validate_json(body)
    except ValidationError:
        return False
    return True


def response(probabilities: list[float]) -> PredictResponse:
    return PredictResponse(
        model_version="1",
        predictions=[
            PredictedInstance(
                prediction_id=f"request-{i}",
                model_version="1",
                probability=probability,
                decision=probability > 0.5,
                uncertainty=0.0,
                features_missing=[],
                features_stale=[],
                features_not_yet_known=[],
                outside_training=False,
            )
            for i, probability in enumerate(probabilities)
        ],
    )


def bare() -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: PredictRequest) -> PredictResponse:
        return response([0.25] * len(request.instances))

    return app


def naive() -> FastAPI:
    app = FastAPI()
    folder = Path(os.environ[FOLDER])
    store = feast_store(folder)
    torch.set_num_threads(1)
    model = TrainedModel.load(folder / "model")
    references = [f"{view.name}:{name}" for view in VIEWS for name in view.columns]

    @app.post("/predict")
    def predict(request: PredictRequest) -> PredictResponse:
        frame = pd.DataFrame([instance.model_dump() for instance in request.instances])
        fields = column_arrays(frame, Instance.model_fields)
        keys = entity_key_columns(fields)
        entities = {name: keys[name].tolist() for name in ENTITY_KEYS}
        read = pd.DataFrame(store.get_online_features(references, entities).to_dict())
        read = read.drop(columns=list(ENTITY_KEYS)).astype("float64")
        stored = {name: read[name].to_numpy() for name in read}
        for view in VIEWS:
            if view.events:
                events = read[list(view.columns)].to_numpy()
                stored[view.name] = events.reshape(len(read), view.events, -1)
        as_of = np.full(len(frame), utc_datetime64(request.as_of))
        features = stored | request_features(fields | stored, as_of)
        numeric = pd.DataFrame(FEATURE_SPEC.matrix(features), columns=list(FEATURE_SPEC.numeric))
        return response(model.predict(frame.join(numeric)).tolist())

    return app
