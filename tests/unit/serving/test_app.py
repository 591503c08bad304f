"""The endpoints over a fake store, registry and model."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.testclient import TestClient

from ontime.features.spec import FeatureSpec
from ontime.models.network import ModelConfig, Network
from ontime.models.preprocessing import Encoder
from ontime.models.serialization import TrainedModel
from ontime.problem import EXAMPLE_AS_OF, EXAMPLE_INSTANCE, FEATURE_SPEC, QUESTION
from ontime.storage.api_keys import ApiKeys
from ontime.storage.prediction_log import PredictionLog
from serving.dependencies import MAX_EXPLANATIONS
from serving.predictor import Predictor
from serving.schemas import ExplainRequest
from tests.unit.serving.conftest import OpenApi, state_of
from tests.unit.serving.fakes import FakeFeatures, request_body

ROOT = Path(__file__).resolve().parents[3]


def test_importing_the_app_loads_no_heavy_library() -> None:
    heavy = "{'feast', 'mlflow', 'torch', 'duckdb', 'evidently', 'prefect', 'sklearn'}"
    program = f"import sys, serving.app; sys.exit(str({heavy} & set(sys.modules) or '') or 0)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_openapi_document_describes_requests_and_errors(api: TestClient) -> None:
    document = api.get("/openapi.json").json()

    predict = document["paths"]["/predict"]["post"]["responses"]
    assert document["info"]["description"] == QUESTION
    errors = {"400", "401", "403", "409", "413", "422", "429", "500", "503"}
    assert set(predict) == {"200"} | errors
    for status in errors:
        schema = predict[status]["content"]["application/problem+json"]["schema"]
        assert schema["required"] == ["type", "title", "status", "detail"]


def test_the_openapi_document_has_an_example_per_body_and_says_where_a_key_is_needed(
    open_api: OpenApi, log: PredictionLog
) -> None:
    api = open_api()
    document = api.get("/openapi.json").json()
    paths = document["paths"]
    schemas = document["components"]["schemas"]
    for name in ("PredictRequest", "ExplainRequest", "OutcomesRequest"):
        assert schemas[name]["examples"]
        assert schemas[name]["additionalProperties"] is False
    assert paths["/predict"]["post"]["security"] == [{"key": []}]
    assert paths["/model"]["get"]["security"] == [{"key": []}, {}]
    assert "security" not in paths["/health"]["get"]
    assert list(paths["/metrics"]["get"]["responses"]["200"]["content"]) == [CONTENT_TYPE_LATEST]
    ApiKeys(log).create("someone", ["read"])
    production = open_api(settings={"environment": "production"})
    assert production.app.openapi()["paths"]["/model"]["get"]["security"] == [{"key": []}]  # type: ignore[attr-defined]


def test_the_model_endpoint_describes_the_deployed_version(api: TestClient) -> None:
    model = api.get("/model").json()
    (row,) = api.get("/model/history").json()

    assert (model["model_version"], model["threshold"]) == ("1", 0.3)
    assert model["trained_through"] == row["trained_through"]
    assert model["serving_since"] == row["serving_since"]
    assert (row["reason"], row["until"], model["last_sync_error"]) == ("start", None, None)


def test_more_explanations_than_the_limit_are_told_to_retry(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, started, released = MAX_EXPLANATIONS, Barrier(MAX_EXPLANATIONS + 1), Event()

    def explain(self: Predictor, request: ExplainRequest) -> Any:
        started.wait(60)
        released.wait(60)
        raise ArithmeticError("ends like any other error")

    monkeypatch.setattr(Predictor, "explain", explain)
    body = {"as_of": EXAMPLE_AS_OF, "instance": EXAMPLE_INSTANCE}
    with ThreadPoolExecutor(n) as clients:
        running = [clients.submit(api.post, "/explain", json=body) for _ in range(n)]
        started.wait(60)
        refused = api.post("/explain", json=body)
        predicted = api.post("/predict", json=request_body())
        released.set()
        statuses = [each.result().status_code for each in running]

    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert refused.json()["type"] == "/problems/too-many-requests"
    assert predicted.status_code == 200
    assert statuses == [500] * n
    assert state_of(api).explanations.acquire(blocking=False), "a failed one is not counted"


def test_contributions_add_up_to_the_predicted_probability(
    open_api: OpenApi, features: FakeFeatures
) -> None:
    torch.manual_seed(0)
    categorical = FEATURE_SPEC.categorical
    model = TrainedModel(
        Network(
            ModelConfig(hidden=8), Encoder.fit(np.array([[-1.0], [1.0]])), [1] * len(categorical)
        ).eval(),
        FeatureSpec(("signal",), categorical, {"a_group": ("signal",)}),
        {name: [str(EXAMPLE_INSTANCE[name])] for name in categorical},
        {"threshold": 0.3},
    )
    api = open_api(load_model=lambda _: model)
    body = request_body()
    request = {"as_of": body["as_of"], "instance": EXAMPLE_INSTANCE}

    explained = api.post("/explain", json=request).json()

    (predicted,) = api.post("/predict", json=body).json()["predictions"]
    contributions = {part["group"]: part["contribution"] for part in explained["contributions"]}
    total = explained["reference_probability"] + sum(contributions.values())
    assert explained["model_version"] == "1"
    assert explained["probability"] == pytest.approx(predicted["probability"], abs=1e-6)
    assert total == pytest.approx(explained["probability"], abs=1e-12)
    inputs = {part["group"]: part["inputs"] for part in explained["contributions"]}
    assert inputs["a_group"] == {"signal": 0.0}
    assert all(inputs[name] == {name: EXAMPLE_INSTANCE[name]} for name in categorical)

    features.missing = frozenset({0})
    explained = api.post("/explain", json=request).json()
    a_group = next(part for part in explained["contributions"] if part["group"] == "a_group")
    assert explained["features_missing"] == ["signal"]
    assert a_group["inputs"] == {"signal": None}
    assert a_group["contribution"] == pytest.approx(0.0, abs=1e-6)
