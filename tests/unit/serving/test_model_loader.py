"""Validation of a version before its deployment."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from ontime.features.spec import FeatureSpec
from serving.model_loader import ModelRejected, smoke_test
from tests.unit.serving.conftest import OpenApi, deployed_version
from tests.unit.serving.fakes import SPEC, FakeModel, FakeRegistry, request_body

INVALID = {
    "not readable": "{",
    "not a probability": '{"probability": 1.5}',
    "not a number": '{"probability": NaN}',
    "without threshold": '{"probability": 0.5, "metadata": {}}',
    "threshold above 1": '{"probability": 0.5, "metadata": {"threshold": 30}}',
    "metadata is null": '{"probability": 0.5, "metadata": null}',
    "metadata is a list": '{"probability": 0.5, "metadata": [0.3]}',
    "trained through an object": (
        '{"probability": 0.5, "metadata": {"threshold": 0.3, "trained_through": {}}}'
    ),
    "trained through no time": (
        '{"probability": 0.5, "metadata": {"threshold": 0.3, "trained_through": "May"}}'
    ),
}


@pytest.mark.parametrize("content", INVALID.values(), ids=INVALID)
def test_an_invalid_version_is_rejected_and_the_old_one_stays(
    api: TestClient, registry: FakeRegistry, content: str
) -> None:
    registry.add("2", probability=0.5)
    (registry.root / "2" / "model.json").write_text(content)
    registry.set_alias("champion", "2")

    response = api.post("/model/reload")

    assert response.status_code == 503
    assert response.json()["type"] == "/problems/model-rejected"
    assert "version 2 cannot be deployed" in response.json()["detail"]
    assert api.post("/predict", json=request_body()).json()["model_version"] == "1"
    error = api.get("/model").json()["last_sync_error"]
    assert error["model_version"] == "2" and "version 2 cannot be deployed" in error["detail"]
    assert "ontime_model_reload_failures_total 1.0" in api.get("/metrics").text
    assert len(api.get("/model/history").json()) == 1


def test_a_model_with_features_that_are_not_served_is_rejected(open_api: OpenApi) -> None:
    spec = FeatureSpec(("tea_leaves",), ())

    api = open_api(load_model=lambda _: FakeModel(0.25, spec=spec))

    assert deployed_version(api) is None
    assert "tea_leaves" in api.get("/model").json()["last_sync_error"]["detail"]
    assert "tea_leaves" in api.get("/ready").json()["detail"]


def recording(model: FakeModel, rows: list[pd.DataFrame]) -> FakeModel:
    def predict(frame: pd.DataFrame) -> Any:
        rows.append(frame)
        return np.full(len(frame), 0.5)

    model.predict = predict  # type: ignore[method-assign]
    return model


def test_the_smoke_test_predicts_logged_and_synthetic_rows() -> None:
    rows: list[pd.DataFrame] = []
    columns = [*SPEC.numeric, *SPEC.categorical]
    logged = pd.DataFrame([[12.0, *("known" for _ in SPEC.categorical)]], columns=columns)

    smoke_test(recording(FakeModel(0.5), rows), logged.assign(other=1))

    (frame,) = rows
    assert frame.signal.iloc[0] == 12 and frame.signal.isna().any()
    assert frame.signal.dtype == np.float32
    assert all((frame[name] == "unknown category").any() for name in SPEC.categorical)
    assert list(frame.columns) == columns


def test_a_feature_that_was_not_logged_yet_is_missing_in_the_smoke_test() -> None:
    rows: list[pd.DataFrame] = []
    logged = pd.DataFrame({name: ["known"] for name in ("other", *SPEC.categorical)})

    smoke_test(recording(FakeModel(0.5), rows), logged)

    assert np.isnan(rows[0].signal.iloc[0])


def test_the_smoke_test_needs_one_result_per_row() -> None:
    model = FakeModel(0.5)
    model.predict = lambda frame: np.full(len(frame) - 1, 0.5)  # type: ignore[method-assign]

    with pytest.raises(ModelRejected, match="one probability each"):
        smoke_test(model, pd.DataFrame())
