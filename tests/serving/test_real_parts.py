"""The real parts on an empty folder: nothing was ingested, trained or promoted yet."""

from pathlib import Path

from starlette.testclient import TestClient

from serving.app import create_app
from tests.serving.fakes import fake_settings, question


def test_before_anything_was_made_the_api_lives_and_says_what_to_run(tmp_path: Path) -> None:
    with TestClient(create_app(fake_settings(tmp_path))) as api:
        assert api.get("/health").status_code == 200
        assert api.get("/model").json()["model_version"] is None
        # Feast switches prometheus_client to shared files when it is imported; not for us.
        assert "ontime_log_failures_total 0.0" in api.get("/metrics").text
        refused = api.post("/predict", json=question())

    assert refused.status_code == 503
    assert "make" in refused.json()["errors"][0]["remedy"]
