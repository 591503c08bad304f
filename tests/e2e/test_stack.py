"""The running stack: a prediction, lost databases, the closed loop, a kill of everything.

    make e2e

The tests depend on each other and run in this order: the faults come before the replay, which
changes the champion, and the kill of everything comes last.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pandas as pd
import pytest

from monitoring.retrain_policy import SHADOW_PERIOD
from ontime.problem import DEMO_START, outcome_of
from ontime.settings import DEVELOPMENT_SECRET, ROOT
from tests.e2e.conftest import (
    ADMIN,
    ALERTS,
    AUTHENTICATED,
    POSTGRES_BOUND_S,
    REDIS_BOUND_S,
    REPLAY_END,
    REVISION,
    RULES,
    Stack,
    assert_logged_once,
    prediction_request,
    traffic,
    wait_until,
)

pytestmark = pytest.mark.e2e


def served_version(stack: Stack) -> str:
    return str(httpx.get(f"{stack.url('API')}/model").json()["model_version"])


def n_predictions(stack: Stack) -> int:
    return int(stack.sql("SELECT count(*) FROM predictions")[0][0])


def test_it_is_ready_and_a_prediction_is_logged(stack: Stack) -> None:
    response = stack.predict("first")
    assert response.status_code == 200
    (prediction,) = response.json()["predictions"]
    assert 0 < prediction["probability"] < 1
    assert_logged_once(stack, ["first"])
    assert served_version(stack) == "1"


def test_the_features_of_the_first_hour_are_fresh(stack: Stack, rows: pd.DataFrame) -> None:
    request = prediction_request(rows, DEMO_START)
    response = httpx.post(
        f"{stack.url('API')}/predict", json=request, headers=AUTHENTICATED
    ).raise_for_status()
    predictions = response.json()["predictions"]
    assert all(prediction["features_stale"] == [] for prediction in predictions)
    assert any(prediction["features_missing"] == [] for prediction in predictions)


def test_a_line_of_the_log_and_a_row_of_the_table_share_their_id(stack: Stack) -> None:
    response = stack.predict("traced")
    trace_id = response.headers["X-Request-ID"]
    assert stack.sql("SELECT trace_id FROM predictions WHERE request_id = 'local:traced'") == [
        [trace_id]
    ]
    lines = [json.loads(line) for line in stack.lines("api") if trace_id in line]
    assert [line["status"] for line in lines if line["event"] == "request completed"] == [200]


def test_the_run_of_the_champion_names_the_commit_of_the_image(stack: Stack) -> None:
    api = f"{stack.url('MLFLOW')}/api/2.0/mlflow"
    named = {"name": "ontime", "alias": "champion"}
    found = httpx.get(f"{api}/registered-models/alias", params=named, auth=ADMIN).json()
    run_id = {"run_id": found["model_version"]["run_id"]}
    run = httpx.get(f"{api}/runs/get", params=run_id, auth=ADMIN).json()["run"]
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["code_revision"] == REVISION


def test_every_user_interface_responds(stack: Stack) -> None:
    pages = {
        "API": "/docs",
        "MLFLOW": "/",
        "PREFECT": "/",
        "EVIDENTLY": "/",
        "GRAFANA": "/api/health",
    }
    auth = {"MLFLOW": ADMIN, "PREFECT": ADMIN}  # the API rejects what is no key
    statuses = {
        part: httpx.get(stack.url(part) + page, auth=auth.get(part), timeout=60).status_code
        for part, page in pages.items()
    }
    assert statuses == dict.fromkeys(pages, 200)


def test_mlflow_and_prefect_ask_for_the_password(stack: Stack) -> None:
    for part, path in (("MLFLOW", "/"), ("PREFECT", "/api/admin/version")):
        assert httpx.get(stack.url(part) + path).status_code == 401
        assert httpx.get(stack.url(part) + path, auth=ADMIN).status_code == 200


def test_no_process_has_a_password_as_an_argument(stack: Stack) -> None:
    arguments = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    for service in stack.compose("ps", "--services").split():
        found = stack.compose("exec", "-T", service, "sh", "-c", arguments)
        assert found.strip() and DEVELOPMENT_SECRET not in found, service


def test_the_serving_image_holds_nothing_that_trains_or_schedules(stack: Stack) -> None:
    names = "prefect lightgbm evidently sklearn matplotlib duckdb pip".split()
    program = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    assert stack.compose("exec", "-T", "api", "python", "-c", program).strip() == "[]"
    assert stack.compose("exec", "-T", "api", "id", "-u").strip() == "10001"
    written = stack.compose("exec", "-T", "api", "sh", "-c", "touch /app/x", check=False)
    assert written == ""


def test_without_redis_the_response_is_a_503_in_time(stack: Stack) -> None:
    for how, undo in (("pause", "unpause"), ("stop", "start")):
        stack.compose(how, "redis")
        began = time.monotonic()
        try:
            response = stack.predict(f"redis-{how}")
            took = time.monotonic() - began
            wait_until(lambda: stack.fires("OnlineStoreDown"), 30, "alert OnlineStoreDown")
        finally:
            stack.compose(undo, "redis")
        assert response.status_code == 503
        assert response.json()["type"] == "/problems/online-store-unavailable"
        assert took < REDIS_BOUND_S
        stack.measured[f"redis_{how}_503_seconds"] = round(took, 2)
        began = time.monotonic()
        wait_until(lambda: stack.predict("after-redis").status_code == 200, 30, "responses")
        stack.measured[f"redis_{undo}_to_answer_seconds"] = round(time.monotonic() - began, 2)


def test_without_postgres_no_prediction_is_returned(stack: Stack) -> None:
    for how, undo in (("pause", "unpause"), ("stop", "start")):
        stack.compose(how, "postgres")
        began = time.monotonic()
        try:
            response = stack.predict(f"postgres-{how}")
            took = time.monotonic() - began
        finally:
            stack.compose(undo, "postgres")
        assert response.status_code == 503
        assert took < POSTGRES_BOUND_S
        stack.measured[f"postgres_{how}_503_seconds"] = round(took, 2)
        key = f"after-postgres-{how}"
        wait_until(lambda: stack.predict(key).status_code == 200, 60, "responses")  # noqa: B023
        assert_logged_once(stack, [key])


@contextmanager
def small_disk(stack: Stack, *tables: str) -> Iterator[str]:
    """The tables on a disk of 64 MB, the container's shared memory; yields how to fill it.

    Postgres keeps its WAL where it was: were that disk full, it would stop, and a Postgres that is
    down has its own test.
    """
    stack.in_postgres("mkdir /dev/shm/small")
    stack.sql("CREATE TABLESPACE small LOCATION '/dev/shm/small'")
    try:
        for table in tables:
            stack.sql(f"ALTER TABLE {table} SET TABLESPACE small")
        yield "cat /dev/zero > /dev/shm/filler || true"  # until nothing fits
    finally:
        stack.in_postgres("rm -f /dev/shm/filler")
        for table in tables:
            stack.sql(f"ALTER TABLE {table} SET TABLESPACE pg_default")
        stack.sql("DROP TABLESPACE small")
        stack.in_postgres("rm -r /dev/shm/small")


def test_a_full_disk_is_reported_and_loses_nothing(stack: Stack, rows: pd.DataFrame) -> None:
    crashes = stack.state("postgres")["RestartCount"]
    after_the_replay = rows.tail(2).to_dict("records")
    report = {"outcomes": [outcome_of(row) for row in after_the_replay]}
    for row in after_the_replay:  # an outcome needs a prediction
        request = prediction_request(rows, row["event_timestamp"])
        httpx.post(f"{stack.url('API')}/predict", json=request, headers=AUTHENTICATED)
    ids = ", ".join(f"'{row['instance_id']}'" for row in after_the_replay)
    written = f"SELECT count(*) FROM outcomes WHERE instance_id IN ({ids})"

    def post_outcomes() -> httpx.Response:
        return httpx.post(f"{stack.url('API')}/outcomes", json=report, headers=AUTHENTICATED)

    sent: dict[str, httpx.Response] = {}

    def fails() -> bool:
        """The last pages may have space for more predictions, also after a first failure."""
        key = f"disk-is-full-{len(sent)}"
        sent[key] = stack.predict(key)
        return sent[key].status_code == 503

    with small_disk(stack, "predictions", "outcomes") as fill, traffic(stack, "disk") as clients:
        stack.in_postgres(fill)
        wait_until(fails, 60, "a failed request")
        failed_key, failed_response = sent.popitem()
        failures = [failed_response, post_outcomes()]
        alert = "PredictionLogUnavailable"
        wait_until(lambda: stack.fires(alert), 30, f"alert {alert}")
        wait_until(lambda: stack.fires("HighErrorRate"), 120, "alert HighErrorRate")
        assert stack.sql(f"SELECT 1 FROM predictions WHERE request_id = 'local:{failed_key}'") == []
        assert stack.sql(written) == [["0"]]
        stack.in_postgres("rm /dev/shm/filler")
        began = time.monotonic()
        wait_until(lambda: stack.predict("disk-has-space").status_code == 200, 30, "responses")
        freed = round(time.monotonic() - began, 2)
        stack.measured["disk_freed_to_answer_seconds"] = freed
        stack.measured.setdefault("full_disk_recovery_seconds", {})["postgres"] = freed
    for failure in failures:
        assert failure.status_code == 503
        problem = failure.json()
        assert problem["type"] == "/problems/prediction-log-unavailable"
        assert "disk" in problem["hint"]
    assert set(clients.statuses) == {200, 503}
    assert_logged_once(stack, [*clients.succeeded, *sent, "disk-has-space"])
    assert post_outcomes().json()["accepted"] == 2
    assert stack.sql(written) == [["2"]]
    assert stack.state("postgres")["RestartCount"] == crashes


def test_without_mlflow_and_s3_the_api_starts_from_its_cache(stack: Stack) -> None:
    def sync_error() -> object:
        return httpx.get(f"{stack.url('API')}/model").json()["last_sync_error"]

    before = served_version(stack)
    probability = stack.predict("before-registry").json()["predictions"][0]["probability"]
    stack.compose("stop", "mlflow", "s3")
    recovery = stack.crash("api")
    stack.measured["api_restart_without_registry_seconds"] = round(recovery, 1)
    assert served_version(stack) == before
    assert sync_error() is not None
    again = stack.predict("without-registry").json()["predictions"][0]["probability"]
    assert again == probability
    wait_until(lambda: stack.fires("ModelReloadFailing"), 60, "alert ModelReloadFailing")
    stack.compose("start", "s3", "mlflow")
    wait_until(lambda: sync_error() is None, 120, "the API syncs with the registry again")


def test_a_stopped_api_raises_an_alert(stack: Stack) -> None:
    stack.compose("stop", "api")
    wait_until(lambda: stack.fires("ApiDown"), 30, "alert ApiDown")
    stack.compose("start", "api")
    wait_until(lambda: stack.is_healthy("api"), 60, "api healthy")
    # NoChampion is true until the next scrape; it fires only after five minutes.
    wait_until(lambda: not stack.fires("NoChampion"), 30, "no alert NoChampion")


def test_the_closed_loop_runs_through_prefect(stack: Stack, rows: pd.DataFrame) -> None:
    """A part of the demo: monitoring decides a retrain, the worker trains, the gate evaluates."""
    began = time.monotonic()
    stack.compose("--profile=replay", "up", "--detach", "replay")
    finished = lambda: stack.state("replay")["State"]["Status"] == "exited"  # noqa: E731
    wait_until(finished, 900, "the end of the replay")
    assert stack.state("replay")["State"]["ExitCode"] == 0
    query = (  # the last challengers are still in shadow
        "SELECT decision_id, result FROM decisions WHERE action = 'retrain' "
        f"AND decided_at <= '{REPLAY_END - SHADOW_PERIOD:%Y-%m-%d %H:%M}+00' ORDER BY decided_at"
    )
    wait_until(lambda: all(row[1] for row in stack.sql(query)), 300, "a result of every retrain")
    retrains = stack.sql(query)
    assert retrains
    stack.measured["replay_seconds"] = round(time.monotonic() - began, 1)
    stack.measured["retrains"] = [result for _, result in retrains]

    changes = stack.sql("SELECT version FROM champion_changes ORDER BY number")
    wait_until(lambda: served_version(stack) == changes[-1][0], 60, "the API serves the champion")
    replayed = rows[(rows.event_timestamp > DEMO_START) & (rows.event_timestamp <= REPLAY_END)]
    logged = stack.sql(
        "SELECT count(*), count(DISTINCT instance_id) FROM predictions "
        "WHERE request_id ~ '^local:[0-9a-f]{32}-'"  # the replay's idempotency keys
    )
    assert logged == [[str(len(replayed)), str(len(replayed))]]
    projects = httpx.get(f"{stack.url('EVIDENTLY')}/api/projects").json()
    assert [project["name"] for project in projects] == ["ontime"]


def test_a_request_long_after_the_last_features_is_flagged(
    stack: Stack, rows: pd.DataFrame
) -> None:
    request = prediction_request(rows, REPLAY_END + timedelta(days=7))

    def predict() -> list[list[str]]:
        response = httpx.post(
            f"{stack.url('API')}/predict", json=request, headers=AUTHENTICATED
        ).raise_for_status()
        return [prediction["features_stale"] for prediction in response.json()["predictions"]]

    assert all(predict())
    wait_until(lambda: stack.fires("LabelDelay"), 30, "alert LabelDelay")
    # Its expression covers five minutes, of which the first belong to the replay.
    stale = lambda: bool(predict()) and stack.fires("StaleFeatures")  # noqa: E731
    wait_until(stale, 400, "alert StaleFeatures")


def test_every_metric_of_an_alert_exists(stack: Stack) -> None:
    """An expression of absent metrics never fires."""
    for alert, expression in ALERTS.items():
        names = {word for word in _words(expression) if word.startswith(("ontime_", "http_", "up"))}
        assert names, alert
        assert [name for name in names if not stack.query(f"count({name})")] == [], alert


def test_prometheus_evaluates_every_rule(stack: Stack) -> None:
    found = httpx.get(f"{stack.url('PROMETHEUS')}/api/v1/rules").raise_for_status().json()
    rules = [rule for group in found["data"]["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(ALERTS, "ok")


# Alerts that no test above raises, with series of the API that make their expressions true.
SLOW = {"1.0": 0, "2.5": 60, "+Inf": 60}  # requests per minute by duration: none below a second
UNSTAGED: list[tuple[str, dict[str, str]]] = [
    ("NoChampion", {}),  # the API has just started, or it is down
    ("NoChampion", {"ontime_champion_info": "0+0x30"}),
    ("ModelDegraded", {'ontime_model_metric{metric="excess_log_loss"}': "0.09+0x30"}),
    (
        "HighLatency",
        {
            f'http_request_duration_seconds_bucket{{handler="/predict",le="{le}"}}': f"0+{n}x30"
            for le, n in SLOW.items()
        },
    ),
]


def test_the_other_alerts_fire_after_their_time_and_not_before(
    stack: Stack, tmp_path: Path
) -> None:
    """In promtool, on series with names and labels that the running API exports."""
    minutes = {
        rule["alert"]: int(rule.get("for", "0m").removesuffix("m"))
        for group in RULES["groups"]
        for rule in group["rules"]
    }
    cases = []
    for alert, series in UNSTAGED:
        assert [name for name in series if not stack.query(f"count({name})")] == [], alert
        firing = {"expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'}
        checks = [
            firing | {"eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": fires}]}
            for minute, fires in ((minutes[alert] - 1, 0), (minutes[alert] + 2, 1))
        ]
        given = [{"series": name, "values": values} for name, values in series.items()]
        cases.append({"interval": "1m", "input_series": given, "promql_expr_test": checks})
    rules = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "alerts.yml").write_bytes((ROOT / "infra/prometheus/alerts.yml").read_bytes())
    (tmp_path / "test.yml").write_text(json.dumps(rules))  # JSON is YAML
    tmp_path.chmod(0o755)
    image = stack.state("prometheus")["Config"]["Image"]
    run = ["docker", "run", "--rm", "--entrypoint", "promtool", "-v", f"{tmp_path}:/rules:ro"]
    done = subprocess.run(
        [*run, image, "test", "rules", "/rules/test.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_monitoring_by_the_wall_clock_is_off_by_default(stack: Stack) -> None:
    url = f"{stack.url('PREFECT')}/api/deployments/name/monitor/ontime"
    (schedule,) = httpx.get(url, auth=ADMIN).raise_for_status().json()["schedules"]
    assert schedule["active"] is False


def _words(expression: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in expression).split()


def test_a_rollback_by_deployment_serves_the_version_before(stack: Stack) -> None:
    changes = [version for (version,) in stack.sql("SELECT version FROM champion_changes")]
    assert len(changes) > 1, "the replay promoted nothing, so that there is nothing to go back to"
    before = served_version(stack)
    with traffic(stack, "rollback") as clients:
        run = ("prefect", "deployment", "run", "rollback/ontime", "--watch")
        stack.compose("exec", "-T", "worker", *run)
        wait_until(lambda: served_version(stack) != before, 60, "another version serves")
        # The version trained last is the challenger now, and scores requests in the background.
        scored = 'rate(ontime_shadow_requests_total{result="scored"}[1m]) > 0'
        wait_until(lambda: bool(stack.query(scored)), 60, "predictions of the challenger")
    assert served_version(stack) == changes[-2]
    assert set(clients.statuses) == {200}
    assert_logged_once(stack, clients.succeeded)


def test_every_panel_of_the_dashboard_shows_the_replay(stack: Stack) -> None:
    board = json.loads((ROOT / "infra/grafana/dashboards/ontime.json").read_text())
    empty = [
        f"{panel['title']}: {target['expr']}"
        for panel in board["panels"]
        for target in panel["targets"]
        if not stack.query(target["expr"].replace("[1m]", "[30m]").replace("[5m]", "[30m]"))
    ]
    assert empty == []


def test_a_kill_of_everything_loses_nothing(stack: Stack) -> None:
    probability = stack.predict("before-the-kill").json()["predictions"][0]["probability"]
    before = served_version(stack), n_predictions(stack)
    stack.compose("kill")
    began = time.monotonic()
    stack.compose("up", "--wait")
    stack.measured["up_after_kill_seconds"] = round(time.monotonic() - began, 1)
    assert (served_version(stack), n_predictions(stack)) == before
    again = stack.predict("after-the-kill").json()["predictions"][0]["probability"]
    assert again == probability


def test_a_change_of_source_rebuilds_in_seconds(stack: Stack, tmp_path: Path) -> None:
    names = ["pyproject.toml", "constraints.txt", "LICENSE", "prefect.yaml", ".dockerignore"]
    folders = ["src", "feature_repo", "serving", "monitoring", "pipelines", "simulation", "infra"]
    subprocess.run(["cp", "-r", *names, *folders, str(tmp_path)], cwd=ROOT, check=True)
    (tmp_path / "src/ontime/__init__.py").write_text(f"# {time.time()}\n")
    began = time.monotonic()
    for target in ("serving", "pipelines"):
        command = ["docker", "build", "--quiet", "-f", "infra/Dockerfile", "--target", target, "."]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    stack.measured["rebuild_seconds"] = round(time.monotonic() - began, 1)
    assert stack.measured["rebuild_seconds"] < stack.measured["up_seconds"] / 5, "not from scratch"
    for image in ("ontime-serving", "ontime-pipelines"):
        command = ["docker", "image", "inspect", "--format", "{{.Size}}", image]
        size = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        stack.measured[f"{image}_gb"] = round(int(size) / 1e9, 2)
    assert stack.measured["ontime-serving_gb"] <= 1.3
