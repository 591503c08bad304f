"""Charts, the loop's page and the system's page."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from starlette.testclient import TestClient

from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import CHAMPION_CHANGES, DECISIONS
from serving.charts import line_chart, reliability_chart, timeline, waterfall
from serving.page_content import system_figures
from serving.schemas import Contribution
from tests.unit.serving.conftest import OpenApi, state_of
from tests.unit.serving.fakes import request_body
from tests.unit.serving.page_fakes import AllFeatures, outcome_report, small_model

START = datetime(2001, 5, 1, tzinfo=UTC)
WEEK = timedelta(weeks=1)


def contribution(value: float) -> Contribution:
    return Contribution(group="g", contribution=value, inputs={})


def test_each_bar_starts_where_the_one_before_ends() -> None:
    chart = waterfall(0.3, [contribution(0.4), contribution(-0.2), contribution(0.0)])
    up, down, none = chart["bars"]

    assert chart["total"] == pytest.approx(0.5)
    assert up["x"] == pytest.approx(chart["start"])
    assert up["x"] + up["width"] == pytest.approx(down["x"] + down["width"], abs=0.2)
    assert down["x"] == pytest.approx(chart["end"], abs=0.2)
    assert none["width"] > 0  # visible


def test_a_line_rises_with_its_values_and_keeps_intervals_inside() -> None:
    points = [(START, 1.0, 0.5, 1.5), (START + WEEK, 2.0, None, None)]
    chart = line_chart({"a": points}, (0.0,))
    ((x0, y0), (x1, y1)), ((_, low, high),) = (chart["lines"][0][k] for k in ("dots", "whiskers"))
    assert x0 < x1 and y0 > y1  # SVG's y axis points down
    assert low > y0 > high
    assert chart["limits"][0] > low
    assert 2 <= len(chart["y_ticks"]) <= 6
    assert line_chart({"a": []}) is None


@pytest.mark.parametrize(("low", "high"), [(-0.02, 0.004), (0.0, 1.0), (3.0, 2400.0)])
def test_ticks_are_few_and_within(low: float, high: float) -> None:
    chart = line_chart({"a": [(START, low, None, None), (START + WEEK, high, None, None)]})
    assert 2 <= len(chart["y_ticks"]) <= 6


def test_a_dot_on_the_diagonal_is_a_calibrated_bin() -> None:
    (dot,) = reliability_chart([{"n": 10, "predicted": 0.25, "happened": 0.25}])
    assert dot["x"] + dot["y"] == 300


def test_the_timeline_gives_each_champion_the_time_until_the_next() -> None:
    changes = [
        {"version": "1", "kind": "promotion", "as_of": START},
        {"version": "2", "kind": "promotion", "as_of": START + WEEK},
    ]
    decision = {"decided_at": START + WEEK, "result": "promoted", "action": "retrain"}
    found = timeline(changes, [decision], START + 4 * WEEK)
    assert found is not None
    first, second = found["periods"]
    assert second["x"] == found["marks"][0]["x"]
    assert second["width"] == pytest.approx(3 * first["width"], rel=0.02)
    assert timeline([], [], START) is None


@pytest.fixture
def site(open_api: OpenApi) -> TestClient:
    model = small_model()
    return open_api(features=AllFeatures(), load_model=lambda _: model)


def evidence(bias: float) -> dict[str, Any]:
    scores = {"calibration_bias": {"value": bias, "low": bias - 0.01, "high": bias + 0.01}}
    performance = {"scores": scores, "label_coverage": 1.0, "positive_rate": 0.2}
    return {"performance": performance | {"mean_prediction": 0.2}, "drift": None}


def test_the_loop_shows_decisions_with_the_reasons_of_the_gate(
    site: TestClient, log: PredictionLog
) -> None:
    log.migrate()
    change = {"number": 1, "kind": "promotion", "version": "1", "replaced": None}
    log.write(insert(CHAMPION_CHANGES).values(**change, as_of=START, reasons=["the first one"]))
    decision = {"decision_id": "d", "decided_at": START + WEEK, "action": "retrain"}
    reasons = [{"code": "scheduled", "value": 28, "limit": 28, "text": "it is 28 days old"}]
    result = {"challenger": "2", "result": "rejected", "result_reasons": ["<b>not better</b>"]}
    log.write(
        insert(DECISIONS).values(**decision, reasons=reasons, evidence=evidence(0.05), **result)
    )

    page = site.get("/loop").text

    for text in ("the first one", "it is 28 days old", "retrain v2, rejected", "mark rejected"):
        assert text in page
    assert "&lt;b&gt;not better" in page
    assert "Calibration bias at each decision" in page
    assert "Served against a model frozen" not in page


def test_the_loop_marks_a_canary_and_its_rollback(site: TestClient, log: PredictionLog) -> None:
    log.migrate()
    changes = [
        ("promotion", "1", None, None),
        ("canary", "2", "1", 0.05),
        ("canary", "2", "1", 0.25),
        ("rollback", "1", "2", None),
    ]
    for number, (kind, version, replaced, share) in enumerate(changes):
        row = {"number": number, "kind": kind, "version": version, "replaced": replaced}
        at = {"as_of": START + number * WEEK, "reasons": [f"reason {number}"], "share": share}
        log.write(insert(CHAMPION_CHANGES).values(**row, **at))

    page = site.get("/loop").text

    assert page.count('class="mark canary" cx=') == 2
    assert page.count('<g class="period') == 2, "version 1, and again after the rollback"
    for text in ("canary v2, 5 %", "canary v2, 25 %", "rollback v1", "reason 3"):
        assert text in page


def test_the_loop_shows_the_weeks_of_a_finished_demo(site: TestClient) -> None:
    folder = state_of(site).settings.reports_dir
    folder.mkdir(parents=True)
    week = {"champion": "1", "predictions": 10, "serving_log_loss": 0.4, "frozen_log_loss": 0.5}
    weeks = [week | {"start": (START + i * WEEK).isoformat()} for i in range(3)]
    replay = {"difference": -0.1, "interval": [-0.2, -0.05]}
    (folder / "demo.json").write_text(json.dumps({"weeks": weeks, "replay": replay}))

    page = site.get("/loop").text

    assert "Served against a model frozen" in page
    assert "-0.1000" in page
    assert "0.5000" in page


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weeks": [1]}'])
def test_a_damaged_report_of_the_demo_hides_its_chart_only(site: TestClient, text: str) -> None:
    folder = state_of(site).settings.reports_dir
    folder.mkdir(parents=True)
    (folder / "demo.json").write_text(text)
    assert site.get("/loop").status_code == 200


def test_the_loop_shows_calibration_and_slices_of_due_predictions(site: TestClient) -> None:
    site.post("/predict", json=request_body(1)).raise_for_status()
    assert 'id="calibration"' not in site.get("/loop").text
    site.post("/outcomes", json=outcome_report(0)).raise_for_status()
    site.post("/predict", json=request_body(1)).raise_for_status()
    state = state_of(site)
    later = state.page_data.clock()
    assert later is not None
    for name in ("calibration", "slices"):
        state.page_data.cache._values.clear()
        rows = getattr(state.page_data, name)(later + timedelta(days=2))
        assert sum(row["n"] for row in rows) >= 2, name
        state.page_data.cache._values.clear()
        assert getattr(state.page_data, name)(later) == []  # no outcome was known, none was due


def test_the_model_card_is_rendered_and_its_html_is_text(site: TestClient) -> None:
    state = state_of(site)
    folder = state.manager.loader.cache.root / "1"
    card = "# Card\n\n| a | b |\n|---|---|\n| 1 | <script>x</script> |\n"
    (folder / "model_card.md").write_text(card)
    page = site.get("/loop/card").text
    assert "<h1>Card</h1>" in page and "<td>1</td>" in page
    assert "<script>x" not in page


def test_the_system_page_reports_requests_latency_and_failures(site: TestClient) -> None:
    for _ in range(3):
        site.post("/predict", json=request_body(1)).raise_for_status()
    site.post("/predict", json={})
    figures = system_figures(state_of(site))
    assert figures["predictions"] == 3
    assert figures["per_second"] == pytest.approx(3 / 60)
    row = figures["handlers"]["/predict"]
    assert (row["2xx"], row["4xx"], row["5xx"]) == (3, 1, 0)
    assert 0 < row["p50"] <= row["p99"] < 10
    assert "/predict" in site.get("/system").text


def test_an_mlflow_address_with_a_password_is_not_shown(open_api: OpenApi, tmp_path: Path) -> None:
    secret = "http://user:secret@host"  # noqa: S105 - a test's
    page = open_api(settings={"mlflow_url": secret}).get("/loop").text
    assert "secret" not in page
    page = open_api(settings={"mlflow_url": "http://host:5000"}).get("/loop").text
    assert re.search('href="http://host:5000"', page)
