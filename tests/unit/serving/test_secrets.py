"""No response and no log line shows a password; no response shows an address, a path or SQL."""

import json
from typing import Any

import pytest

from ontime.errors import OnlineStoreUnavailable, PredictionLogUnavailable, RegistryUnavailable
from ontime.features.spec import FeatureSpec
from serving.observability import redact_passwords
from tests.unit.serving.conftest import OpenApi, state_of
from tests.unit.serving.fakes import FakeFeatures, FakeModel, FakeRegistry, request_body

SECRET = "hunter2"  # noqa: S105 - looked for in what the API shows
PRIVATE = [SECRET, "10.1.2.3", "/srv/models", "SELECT", "Error("]
CAUSE = (
    f"OSError('http://user:{SECRET}@10.1.2.3:5000 failed: SELECT 1 in /srv/models "
    f"redis:6379,password={SECRET}')"
)


def raise_error(kind: type[Exception]) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise kind(CAUSE)

    return fail


@pytest.mark.parametrize("kind", [RegistryUnavailable, ValueError, OSError])
def test_a_failing_registry_shows_nothing_private(
    open_api: OpenApi,
    registry: FakeRegistry,
    capsys: pytest.CaptureFixture[str],
    kind: type[Exception],
) -> None:
    registry.resolve = raise_error(kind)  # type: ignore[method-assign]
    api = open_api()

    shown = [api.post("/model/reload"), api.get("/model"), api.get("/ready")]
    shown.append(api.post("/predict", json=request_body()))

    text = "".join(response.text for response in shown)
    assert [word for word in PRIVATE if word in text] == []
    lines = capsys.readouterr().out
    assert SECRET not in lines
    assert "10.1.2.3" in lines  # the log has the cause


@pytest.mark.parametrize("kind", [ValueError, OSError, RuntimeError])
def test_a_version_that_does_not_load_shows_nothing_private(
    open_api: OpenApi, capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    api = open_api(load_model=raise_error(kind))

    text = api.post("/model/reload").text + api.get("/model").text + api.get("/ready").text

    assert [word for word in PRIVATE if word in text] == []
    lines = capsys.readouterr().out
    assert SECRET not in lines and "10.1.2.3" in lines


def test_a_failing_store_or_log_shows_nothing_private(
    open_api: OpenApi, features: FakeFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = open_api()
    with monkeypatch.context() as patch:
        patch.setattr(features, "read", raise_error(OnlineStoreUnavailable))
        text = api.post("/predict", json=request_body()).text
    monkeypatch.setattr(state_of(api).log, "record", raise_error(PredictionLogUnavailable))
    text += api.post("/predict", json=request_body()).text

    assert [word for word in PRIVATE if word in text] == []


def test_a_rejected_version_says_why(open_api: OpenApi) -> None:
    api = open_api(load_model=lambda _: FakeModel(0.25, spec=FeatureSpec(("tea_leaves",), ())))

    assert "tea_leaves" in api.post("/model/reload").json()["detail"]


@pytest.mark.parametrize(
    ("line", "redacted"),
    [
        (f"http://user:{SECRET}@host/path", "http://***@host/path"),
        (f"postgresql+psycopg://u:a/{SECRET}@b@host/db", "postgresql+psycopg://***@host/db"),
        (f"redis:6379,password={SECRET},db=1", "redis:6379,password=***,db=1"),
        ("http://host/path", "http://host/path"),
        ("https://host/a, sent by me@example.org", "https://host/a, sent by me@example.org"),
    ],
)
def test_passwords_are_redacted_from_log_lines(line: str, redacted: str) -> None:
    text = json.dumps({"detail": line, "other": "x@y"})

    assert json.loads(redact_passwords(None, "info", text))["detail"] == redacted
