"""The pages: what they show of the log, no look ahead, and nothing written."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from ontime.problem import (
    BOARD_COLUMNS,
    BOARD_TITLE,
    DECISION_TEXTS,
    EXAMPLE_INSTANCE,
    FEATURE_SPEC,
    SLIDERS,
    TEMPLATES_FOLDER,
    board_row,
    outcome_text,
)
from ontime.settings import ROOT
from ontime.storage.prediction_log import PredictionLog
from serving import pages
from serving.dependencies import MAX_EXPLANATIONS
from serving.page_data import MAX_STREAMS
from tests.unit.serving.conftest import OpenApi, state_of
from tests.unit.serving.page_fakes import (
    AllFeatures,
    instance_id,
    known_at,
    outcome_report,
    prediction_request,
    small_model,
)

FILES = [*(ROOT / "serving/templates").iterdir(), *(ROOT / "serving/static").iterdir()]


@pytest.fixture
def site(open_api: OpenApi) -> TestClient:
    model = small_model()
    return open_api(features=AllFeatures(), load_model=lambda _: model)


def predict(api: TestClient, hours: int = 0) -> Any:
    return api.post("/predict", json=prediction_request(hours)).raise_for_status().json()


def board_at(api: TestClient, at: datetime) -> str:
    """The board's fragment at a moment, past the cache."""
    state_of(api).page_data.cache._values.clear()
    return api.get("/board", params={"at": at.isoformat()}).raise_for_status().text


def test_the_board_shows_a_prediction_with_its_decision_and_inputs(open_api: OpenApi) -> None:
    model = small_model()
    api = open_api(features=AllFeatures(n_missing=2), load_model=lambda _: model)
    (predicted,) = predict(api)["predictions"]

    page = api.get("/").text

    assert f"<h1>{BOARD_TITLE}</h1>" in page
    assert f"{100 * predicted['probability']:.0f} %" in page
    assert f">{DECISION_TEXTS[predicted['decision']]}</span>" in page
    assert "2 missing" in page
    for name in (*BOARD_COLUMNS, *board_row(EXAMPLE_INSTANCE).cells):
        assert name in page


def test_an_error_page_names_the_version_that_is_deployed(site: TestClient) -> None:
    page = site.get("/instances/nothing")
    assert page.status_code == 404
    assert "Model version" in page.text and "No model deployed" not in page.text


def test_the_board_of_a_moment_shows_an_outcome_only_from_when_it_was_known(
    site: TestClient,
) -> None:
    predict(site)
    report = outcome_report(0)
    site.post("/outcomes", json=report).raise_for_status()
    text = outcome_text(_details(report))

    assert text not in board_at(site, known_at(0) - timedelta(minutes=1))
    assert text in board_at(site, known_at(0))


def _details(report: dict[str, Any]) -> Any:
    from ontime.problem import Outcome

    return Outcome.model_validate(report["outcomes"][0]).details


def test_the_board_of_a_moment_shows_no_later_prediction(site: TestClient) -> None:
    predict(site)
    predict(site, hours=24)

    assert quote(instance_id(24)) in site.get("/").text
    earlier = board_at(site, known_at(0))
    assert quote(instance_id(24)) not in earlier


def test_without_a_champion_and_with_an_empty_log_every_page_opens(
    open_api: OpenApi, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.unit.serving.fakes import FakeRegistry

    empty = FakeRegistry(tmp_path_factory.mktemp("registry"))
    api = open_api(registry=empty)
    for path in ("/", "/ask", "/loop", "/system"):
        response = api.get(path)
        assert (response.status_code, "No model deployed" in response.text) == (200, True), path
    assert "Nothing has been predicted yet" in api.get("/").text
    assert api.get("/loop/card").status_code == 404


def test_errors_of_pages_are_pages_and_errors_of_programs_stay_json(site: TestClient) -> None:
    page = site.get("/instances/nothing")
    problem = site.post("/what-if", json={"prediction_id": "nothing", "changes": {}})

    assert page.status_code == problem.status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert "is in the log" in page.text
    assert problem.headers["content-type"] == "application/problem+json"


def test_a_log_that_does_not_work_is_a_page_with_a_hint(
    site: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ontime.errors import PredictionLogUnavailable

    def fail(_query: object) -> None:
        raise PredictionLogUnavailable("postgresql://user@host does not work")

    monkeypatch.setattr(state_of(site).log, "rows", fail)
    page = site.get("/")
    assert page.status_code == 503
    assert "prediction log, which does not work" in page.text
    assert "user@host" not in page.text


def test_the_bars_of_an_instance_add_up_to_its_probability(site: TestClient) -> None:
    (predicted,) = predict(site)["predictions"]

    page = site.get(f"/instances/{instance_id(0)}").text

    numbers = [float(n) for n in re.findall(r"<b>([+-]?\d+\.\d)</b></summary>", page)]
    ends = [int(n) for n in re.findall(r"<b>(\d+) %</b></div>", page)]
    assert len(numbers) == len(FEATURE_SPEC.groups) + len(FEATURE_SPEC.categorical)
    assert ends[0] + sum(numbers) == pytest.approx(ends[1], abs=0.5 + 0.5 + 0.05 * len(numbers))
    assert ends[1] == round(100 * predicted["probability"])
    assert "version 1" in page


def test_a_computed_explanation_is_shown_while_others_are_computed(site: TestClient) -> None:
    for hours in (0, 24):
        predict(site, hours)
    assert site.get(f"/instances/{instance_id(0)}").status_code == 200
    explanations = state_of(site).explanations
    for _ in range(MAX_EXPLANATIONS):
        assert explanations.acquire(blocking=False)

    assert site.get(f"/instances/{instance_id(0)}").status_code == 200
    assert site.get(f"/instances/{instance_id(24)}").status_code == 429
    explanations.release()
    assert site.get(f"/instances/{instance_id(24)}").status_code == 200


def test_a_changed_input_changes_the_answer_and_nothing_is_logged(
    site: TestClient, log: PredictionLog
) -> None:
    (predicted,) = predict(site)["predictions"]
    log.migrate()
    before = log.counts()
    body = {"prediction_id": predicted["prediction_id"], "changes": {}}

    same = site.post("/what-if", json=body).json()
    name = next(iter(SLIDERS[0].features))
    other = site.post("/what-if", json=body | {"changes": {name: -40.0}}).json()

    assert same["probability"] == pytest.approx(predicted["probability"], abs=1e-6)
    assert same["decision_text"] == DECISION_TEXTS[predicted["decision"]]
    assert other["probability"] != pytest.approx(same["probability"], abs=1e-4)
    assert log.counts() == before


@pytest.mark.parametrize("changes", [{"no_such_input": 1.0}, {"no_such_input": "x"}, "x"])
def test_a_change_of_something_else_is_rejected(site: TestClient, changes: Any) -> None:
    (predicted,) = predict(site)["predictions"]
    body = {"prediction_id": predicted["prediction_id"], "changes": changes}
    assert site.post("/what-if", json=body).status_code == 422


def test_an_instance_of_ones_own_is_answered_and_not_logged(
    site: TestClient, log: PredictionLog
) -> None:
    request = prediction_request(0)
    body = {"as_of": request["as_of"], "instance": request["instances"][0]}
    log.migrate()

    answer = site.post("/ask", json=body)

    (predicted,) = predict(site)["predictions"]
    assert f"{100 * predicted['probability']:.0f} %" in answer.text
    assert log.counts()["predictions"] == 1  # the one of `predict`
    invalid = site.post("/ask", json=body | {"instance": {}})
    assert (invalid.status_code, invalid.json()["errors"] != []) == (422, True)


def test_every_slider_and_column_is_one_of_the_problem() -> None:
    for slider in SLIDERS:
        assert slider.low < slider.high
        assert set(slider.features) <= set(FEATURE_SPEC.numeric)
    assert len(board_row(EXAMPLE_INSTANCE).cells) == len(BOARD_COLUMNS)


def test_pages_load_nothing_from_another_host_and_say_so(site: TestClient) -> None:
    response = site.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in [*FILES, *TEMPLATES_FOLDER.iterdir()]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(src|href|url|import|fetch)\W{1,3}(https?:)?//", text), path
        assert " style=" not in text
        assert " onclick=" not in text


def test_static_files_are_served_and_nothing_beside_them(site: TestClient) -> None:
    for name in ("style.css", "pages.js", "icon.svg"):
        assert site.get(f"/static/{name}").status_code == 200
    assert site.get("/static/../pages.py").status_code == 404
    assert site.get("/static/%2e%2e/pages.py").status_code == 404


def test_a_stream_reports_a_change_once(site: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "POLL_S", 0.01)
    monkeypatch.setattr(pages, "STREAM_S", 0.05)
    first = site.get("/events").text
    last = re.findall(r"^id: (.*)$", first, re.MULTILINE)
    assert len(last) == 1

    seen = {"Last-Event-ID": last[0]}
    assert "event: board" not in site.get("/events", headers=seen).text
    predict(site)
    state_of(site).page_data.cache._values.clear()
    assert "event: board" in site.get("/events", headers=seen).text


def test_one_stream_too_many_is_told_to_poll(site: TestClient) -> None:
    streams = state_of(site).page_data.streams
    for _ in range(MAX_STREAMS):
        assert streams.acquire(blocking=False)
    assert site.get("/events").status_code == 503
    streams.release(MAX_STREAMS)


@pytest.fixture
def statements(site: TestClient) -> Iterator[list[tuple[str, Any]]]:
    found: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        found.append((statement, parameters))

    engine = state_of(site).log.engine
    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


def test_no_page_scans_the_predictions_or_the_outcomes(
    site: TestClient, statements: list[tuple[str, Any]]
) -> None:
    predict(site)
    site.post("/outcomes", json=outcome_report(0))
    statements.clear()
    for path in ("/", "/loop", "/system", "/ask", f"/instances/{instance_id(0)}"):
        site.get(path).raise_for_status()
    seen = list(statements)
    assert len(seen) > 8
    for statement, parameters in seen:
        assert statement.lstrip().upper().startswith("SELECT"), statement
        with state_of(site).log.engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        for *_, step in plan:
            scan = re.match(r"SCAN (predictions|outcomes)(?! USING COVERING INDEX)", step)
            assert not scan, (step, statement)


def test_a_result_is_computed_once_per_period(site: TestClient) -> None:
    cache = state_of(site).page_data.cache
    calls: list[int] = []
    for _ in range(3):
        cache.get("key", 60.0, lambda: calls.append(1))
    assert len(calls) == 1
    for _ in range(2):
        cache.get("other", 0.0, lambda: calls.append(1))
    assert len(calls) == 3


def test_the_board_is_rendered_once_per_second_however_many_watch(
    site: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    render = pages._render

    def count(template: str, *arguments: Any, **context: Any) -> str:
        rendered.append(template)
        return render(template, *arguments, **context)

    monkeypatch.setattr(pages, "_render", count)
    monkeypatch.setattr(pages, "BOARD_S", 60.0)
    for _ in range(5):
        site.get("/board").raise_for_status()
    assert rendered == ["board_rows.html"]
