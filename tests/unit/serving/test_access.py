"""API keys: each route needs its scope, a key has limits, and what it did is recorded."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import httpx2
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from ontime.problem import EXAMPLE_INSTANCE, EXAMPLE_OUTCOME, Instance, Outcome
from ontime.storage.api_keys import KEY_ID_LENGTH, SCOPES, ApiKeys, digest_of, local_key
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import API_KEYS, OUTCOMES
from serving import keyring, server
from serving.access import OPEN_PATHS, needed_scope
from serving.keys import main as keys_command
from serving.problems import NoApiKey, TooManyRequests
from tests.unit.serving.conftest import OpenApi, metric, state_of
from tests.unit.serving.fakes import AS_OF, INSTANCE_ID, fake_settings, make_caller, request_body

HOUR = timedelta(hours=1)
OUTCOMES_BODY = {"outcomes": [EXAMPLE_OUTCOME]}


class Client:
    """Another client of a running app, with a key of its own."""

    def __init__(self, api: TestClient, key: str) -> None:
        self.api, self.headers = api, {"Authorization": f"Bearer {key}"}

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = self.headers | options.pop("headers", {})
        return self.api.request(method, path, headers=headers, **options)

    def post(self, path: str, **options: Any) -> httpx2.Response:
        return self.request("POST", path, **options)


def client_with(api: TestClient, *scopes: str, client: str = "someone", **limits: Any) -> Client:
    state = state_of(api)
    key = state.keys.keys.create(client, scopes, **limits)
    state.keys.refresh()
    return Client(api, key)


def requests_of(api: TestClient) -> list[tuple[str, str]]:
    """Method and path of every route."""
    paths = api.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_every_route_needs_a_scope_or_is_open_on_purpose(api: TestClient) -> None:
    without = {path for method, path in requests_of(api) if needed_scope(method, path) is None}
    assert without == OPEN_PATHS
    scopes = {path: needed_scope(method, path) for method, path in requests_of(api)}
    assert scopes["/predict"] == "predict" and scopes["/outcomes"] == "outcomes"
    assert scopes["/model/reload"] == scopes["/outcomes/corrections"] == "operate"
    assert scopes["/model"] == scopes["/explain"] == "read"
    assert needed_scope("POST", "/a/new/route") == needed_scope("DELETE", "/x") == "operate"


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_does_what_its_scope_allows_and_nothing_else(api: TestClient, scope: str) -> None:
    client = client_with(api, scope)
    for method, path in requests_of(api):
        allowed = needed_scope(method, path) in (None, scope)
        response = client.request(method, path)
        assert (response.status_code != 403) is allowed, (method, path)
        if not allowed:
            assert response.json()["type"] == "/problems/not-allowed"


@pytest.mark.parametrize(
    "header",
    ["Bearer wrong", "Bearer", "", "Basic key-of-the-tests", "key-of-the-tests", "Bearer ü"],
)
def test_a_wrong_key_is_rejected_before_the_body_is_read(api: TestClient, header: str) -> None:
    del api.headers["Authorization"]
    headers = {"Authorization": header.encode("latin-1")}
    response = api.post("/predict", content=b"no json", headers=headers)  # type: ignore[arg-type]

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"] == "/problems/not-authenticated"
    assert "X-Request-ID" in response.headers
    assert metric(api, 'ontime_rejected_requests_total{reason="NotAuthenticated"}') == 1


def test_without_a_key_a_development_api_can_be_read_and_nothing_else(api: TestClient) -> None:
    del api.headers["Authorization"]
    statuses = {path: api.get(path).status_code for path in ("/model", "/docs", "/metrics")}
    assert statuses == dict.fromkeys(statuses, 200)
    for path in ("/predict", "/outcomes", "/outcomes/corrections", "/model/reload"):
        assert api.post(path, json={}).status_code == 401, path


def test_a_development_api_creates_a_key_at_its_first_start(
    open_api: OpenApi, tmp_path: Path, log: PredictionLog, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = fake_settings(tmp_path, api_key="")
    first = open_api(settings={"api_key": ""})
    assert f"$(cat {settings.api_key_file})" in capsys.readouterr().out
    second = open_api(settings={"api_key": ""})  # a restart

    assert settings.api_key_file.stat().st_mode & 0o077 == 0
    key = settings.client_headers["Authorization"].removeprefix("Bearer ")
    assert key == local_key(settings) and len(key) > 40
    for api in (first, second):
        assert Client(api, key).post("/predict", json=request_body()).status_code == 200
    (row,) = log.rows(select(API_KEYS))
    assert key not in str(row) and row["client"] == "local"
    assert key not in capsys.readouterr().out


def test_workers_in_production_do_not_start_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fake_settings(tmp_path, environment="production")
    monkeypatch.setattr(server, "Settings", lambda: settings)
    with pytest.raises(NoApiKey, match=r"serving\.keys create"):
        server.run_workers(2, "127.0.0.1", 0)


def test_production_does_not_start_without_a_key_and_has_no_anonymous_reader(
    open_api: OpenApi, log: PredictionLog
) -> None:
    production = {"environment": "production"}
    with pytest.raises(NoApiKey, match=r"serving\.keys create"):
        open_api(settings=production)
    log.migrate()
    key = ApiKeys(log).create("someone", ["read"])

    api = open_api(settings=production)

    assert api.get("/model").status_code == 401  # the key of the environment is not created
    del api.headers["Authorization"]
    assert api.get("/model").status_code == 401 and api.get("/health").status_code == 200
    assert Client(api, key).request("GET", "/model").status_code == 200


def test_keys_are_rotated_without_a_pause(api: TestClient) -> None:
    old = client_with(api, "predict", client="shop")
    new = client_with(api, "predict", client="shop")
    assert [each.post("/predict", json=request_body()).status_code for each in (old, new)] == [
        200
    ] * 2
    keys = state_of(api).keys
    (first, _) = [key for key in keys.keys.all() if key.client == "shop"]
    keys.keys.revoke(first.key_id)
    keys.refresh()

    assert old.post("/predict", json=request_body()).status_code == 401
    assert new.post("/predict", json=request_body()).status_code == 200
    with pytest.raises(LookupError, match="no valid key"):
        keys.keys.revoke(first.key_id)


def test_a_revoked_key_is_noticed_by_itself(
    open_api: OpenApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.dependencies.REFRESH_S", 0.01)
    api = open_api()
    keys = ApiKeys(state_of(api).log)
    for key in keys.all():
        keys.revoke(key.key_id)
    statuses = (api.get("/model").status_code for _ in range(1_000))
    assert 401 in statuses


def test_a_rate_above_the_limit_is_refused_and_told_when_to_retry(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [monotonic() + 60]
    monkeypatch.setattr(keyring, "monotonic", lambda: now[0])
    client = client_with(api, "predict", requests_per_s=2)

    def send() -> httpx2.Response:
        return client.post("/predict", json=request_body())

    assert [send().status_code for _ in range(3)] == [200, 200, 429]

    refused = send()

    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["type"] == "/problems/too-many-requests"
    assert api.post("/predict", json=request_body()).status_code == 200, "another client"
    now[0] += 0.5
    assert [send().status_code for _ in range(2)] == [200, 429]


def test_concurrent_requests_of_a_key_are_limited() -> None:
    caller = make_caller(max_concurrent=2)
    caller.admit("predict")
    caller.admit("read")
    with pytest.raises(TooManyRequests, match="at most 2 requests in progress"):
        caller.admit("read")
    caller.in_progress -= 1
    caller.admit("read")


def test_a_request_that_ended_is_not_in_progress(api: TestClient) -> None:
    for _ in range(3):
        api.post("/predict", json=request_body())
        api.post("/predict", content=b"{")
    callers = state_of(api).keys._callers
    assert callers is not None and [each.in_progress for each in callers.values()] == [0]


def test_a_prediction_records_its_client_and_if_monitoring_counts_it(
    api: TestClient, log: PredictionLog, capsys: pytest.CaptureFixture[str]
) -> None:
    api.post("/predict", json=request_body())
    client_with(api, "predict", client="load-test").post("/predict", json=request_body(2))

    rows = log.served(AS_OF, AS_OF + HOUR)

    assert rows.groupby("client").production_traffic.unique().map(list).to_dict() == {
        "local": [True],
        "load-test": [False],
    }
    assert len(log.monitored(AS_OF, AS_OF + HOUR, AS_OF)) == 1
    assert '"client":"load-test"' in capsys.readouterr().out


def test_clients_do_not_share_idempotency_keys(api: TestClient, log: PredictionLog) -> None:
    headers = {"Idempotency-Key": "guessed"}
    squatter = client_with(api, "predict", client="squatter")
    assert squatter.post("/predict", json=request_body(2), headers=headers).status_code == 200

    response = api.post("/predict", json=request_body(), headers=headers)

    assert response.status_code == 200
    assert log.responses(["local:guessed", "squatter:guessed"]).keys() == {
        "local:guessed",
        "squatter:guessed",
    }


def test_outcomes_of_predicted_instances_are_accepted_with_their_reporter(
    api: TestClient, log: PredictionLog
) -> None:
    early = api.post("/outcomes", json=OUTCOMES_BODY).json()
    api.post("/predict", json=request_body())
    first = client_with(api, "outcomes").post("/outcomes", json=OUTCOMES_BODY).json()
    second = api.post("/outcomes", json=OUTCOMES_BODY).json()

    counts = {"accepted": 0, "duplicates": 0, "contradictions": 0, "never_predicted": 0}
    assert early == counts | {"never_predicted": 1, "contradicting": []}
    assert first == counts | {"accepted": 1, "contradicting": []}
    assert second == counts | {"duplicates": 1, "contradicting": []}
    (row,) = log.rows(select(OUTCOMES))
    assert (row["instance_id"], row["reporter"]) == (INSTANCE_ID, "someone")
    assert metric(api, 'ontime_outcomes_total{result="never_predicted"}') == 1


def test_an_outcome_is_not_known_before_it_can_be(api: TestClient, log: PredictionLog) -> None:
    api.post("/predict", json=request_body())
    instance = Instance.model_validate(EXAMPLE_INSTANCE)
    earliest = Outcome.model_validate(EXAMPLE_OUTCOME).earliest_known_at(instance)

    def report(at: datetime) -> dict[str, Any]:
        return {"outcomes": [EXAMPLE_OUTCOME | {"known_at": at.isoformat()}]}

    response = api.post("/outcomes", json=report(earliest - timedelta(seconds=1)))

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "outcomes[0].known_at"
    assert log.counts()["outcomes"] == 0
    assert api.post("/outcomes", json=report(earliest)).json()["accepted"] == 1


def test_an_operator_corrects_an_outcome(
    api: TestClient, log: PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.post("/predict", json=request_body())
    with monkeypatch.context() as wrong:
        label = not Outcome.model_validate(EXAMPLE_OUTCOME).label
        wrong.setattr(Outcome, "label", label)
        api.post("/outcomes", json=OUTCOMES_BODY)

    client = client_with(api, "operate", client="operator")
    assert client.post("/outcomes/corrections", json=OUTCOMES_BODY).json() == {
        "corrected": [INSTANCE_ID]
    }
    assert client.post("/outcomes/corrections", json=OUTCOMES_BODY).json() == {"corrected": []}
    assert log.served(AS_OF, AS_OF + HOUR).label.tolist() == [not label]
    assert log.counts()["outcome_contradictions"] == 1


def test_the_command_creates_lists_and_revokes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONTIME_DATA_DIR", str(tmp_path))
    create = ["create", "--client", "shop", "--scopes", "predict,outcomes"]
    keys_command([*create, "--production-traffic", "--requests-per-s", "7"])
    key = capsys.readouterr().out.strip()
    keys_command(["list"])
    (line,) = capsys.readouterr().out.splitlines()
    assert key not in line and "shop" in line and "production" in line and "7/s" in line
    keys_command(["revoke", line.split()[0]])
    keys_command(["list"])
    assert "revoked" in capsys.readouterr().out
    for wrong in (["--client", "A B"], ["--scopes", "all"], ["--max-concurrent", "0"]):
        with pytest.raises(SystemExit):
            keys_command([*create, *wrong])
    with pytest.raises(SystemExit):
        keys_command(["revoke", "unknown"])


def test_the_command_stores_a_key_that_another_system_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONTIME_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ONTIME_API_KEY", "")
    create = ["create", "--given", "--client", "operator", "--scopes", "predict"]
    with pytest.raises(SystemExit):
        keys_command(create)
    assert "ONTIME_API_KEY" in capsys.readouterr().err
    monkeypatch.setenv("ONTIME_API_KEY", "secret-of-another-system")
    for _ in range(2):  # also of a task that runs again
        keys_command(create)
    assert capsys.readouterr().out == "", "a log keeps what is printed"
    keys_command(["list"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[0] == digest_of(b"secret-of-another-system")[:KEY_ID_LENGTH]


def test_a_request_reads_no_key_from_the_database(
    open_api: OpenApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: ApiKeys) -> Any:
        raise AssertionError("a request must not read the keys")

    monkeypatch.setattr("serving.dependencies.REFRESH_S", 1_000)
    api = open_api()
    monkeypatch.setattr(ApiKeys, "all", read)
    assert api.post("/predict", json=request_body()).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("api", 200), ("API:9000", 200), ("[::1]:9000", 200), ("evil.example", 400), ("", 400)],
)
def test_a_host_that_is_not_ours_is_refused(open_api: OpenApi, host: str, status: int) -> None:
    api = open_api(settings={"allowed_hosts": "api, [::1]"})
    response = api.get("/model", headers={"Host": host})
    assert response.status_code == status
    assert status == 200 or response.json()["type"] == "/problems/host-not-allowed"
    assert api.get("/health", headers={"Host": host}).status_code == 200  # a probe


def test_the_documentation_needs_no_network(api: TestClient) -> None:
    page = api.get("/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 3
    for link in links:
        assert link.startswith("/docs/assets/") and api.get(link).status_code == 200
    assert "/openapi.json" in page and "://" not in re.sub(r"//# .*", "", page)
