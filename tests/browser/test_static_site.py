"""The static site from disk: its board replays, its links lead somewhere, its model is the same."""

import re
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, expect

from experiments.static_site import HERE, copy_pages, exported, script_of, write_model
from ontime.models.serialization import TrainedModel
from ontime.problem import FEATURE_SPEC, SLIDERS
from ontime.storage.prediction_log import PredictionLog
from tests.browser.conftest import OpenPage, Site
from tests.browser.test_in_browser import overflow, violations
from tests.unit.serving.page_fakes import moment, small_model

TOLERANCE = 1e-5  # of a probability: the browser computes in float64, the service in float32
N_FRAMES = 30


@pytest.fixture(scope="module")
def folder(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    site.predict(50)
    with httpx.Client(base_url=site.url, timeout=60) as http:
        system = http.get("/system").text.replace("<h1>System</h1>", "<h1>System at the end</h1>")
        ids = copy_pages(http, folder, moment(50), N_FRAMES, system)
    log = site.app.state.app_state.log
    rows = log.served(moment(-1), moment(51))
    write_model(folder, small_model(), "1", rows[rows.instance_id.isin(ids)])
    return folder


def probabilities_in_the_browser(
    browser: Browser, model: TrainedModel, rows: pd.DataFrame
) -> np.ndarray:
    page = browser.new_page()
    page.add_script_tag(content=script_of(MODEL=exported(model, "1"), INPUTS={}))
    page.add_script_tag(path=HERE / "network.js")
    numbers = rows[list(model.spec.numeric)].astype(object)
    values = numbers.where(numbers.notna(), None).to_numpy().tolist()
    categories = rows[list(model.spec.categorical)].to_numpy().tolist()
    script = """([values, categories]) => {
        const model = makeModel(window.MODEL);
        return values.map((row, i) => model.predict(row, categories[i]));
    }"""
    found = np.array(page.evaluate(script, [values, categories]))
    page.close()
    return found


def test_the_model_in_the_browser_is_the_served_one(browser: Browser) -> None:
    model, rng = small_model(), np.random.default_rng(1)
    numbers = rng.normal(0, 60, (300, len(FEATURE_SPEC.numeric))).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.2] = np.nan
    numbers[0], numbers[1], numbers[2] = np.nan, 1e6, -1e6
    rows = pd.DataFrame(numbers, columns=list(FEATURE_SPEC.numeric))
    for name in FEATURE_SPEC.categorical:
        rows[name] = rng.choice([*model.vocabularies[name], "unknown"], len(rows))

    found = probabilities_in_the_browser(browser, model, rows)

    expected = model.predict(rows)
    assert expected.std() > 0.05  # not one number
    assert np.abs(found - expected).max() < TOLERANCE


def test_the_board_replays_from_disk(folder: Path, open_page: OpenPage) -> None:
    page = open_page((folder / "index.html").as_uri())
    clock, slider = page.locator("#board .clock time"), page.locator("#position")
    newest = clock.get_attribute("datetime")
    slider.fill("0")
    assert clock.get_attribute("datetime") != newest
    first = clock.get_attribute("datetime")
    page.get_by_role("button", name="Play").click()
    expect(clock).not_to_have_attribute("datetime", first or "", timeout=10_000)
    page.get_by_role("button", name="Pause").click()
    assert violations(page) == []


def test_a_slider_answers_without_a_server(folder: Path, open_page: OpenPage) -> None:
    page = open_page((folder / "index.html").as_uri())
    page.locator("#board table a").first.click()
    before = page.locator("#answer").text_content()
    slider = page.get_by_label(SLIDERS[0].label)
    slider.focus()
    page.keyboard.press("End")
    expect(page.locator("#answer-note")).to_contain_text("with changed inputs")
    page.get_by_role("button", name="As it was").click()
    assert page.locator("#answer").text_content() == before


def test_the_ask_page_answers_for_each_recorded_instance(folder: Path, open_page: OpenPage) -> None:
    page = open_page((folder / "ask.html").as_uri())
    choice, link = page.get_by_label("Recorded"), page.locator("#recorded-page")
    recorded = choice.locator("option").all()
    assert len(recorded) == len(list((folder / "instances").iterdir()))
    for option in recorded:
        choice.select_option(option.get_attribute("value"))
        expect(page.locator("#answer-note")).to_contain_text("as it was")
        other = open_page((folder / (link.get_attribute("href") or "")).as_uri())
        assert other.locator("h1").text_content() == option.text_content()
        for what in ("#answer", "#answer-decision"):
            assert other.locator(what).text_content() == page.locator(what).text_content()
        shown = [each.locator(".slider output").all_text_contents() for each in (page, other)]
        assert shown[0] == shown[1] and len(shown[0]) == len(SLIDERS)
    page.get_by_label(SLIDERS[0].label).focus()
    page.keyboard.press("End")
    expect(page.locator("#answer-note")).to_contain_text("with changed inputs")


def test_the_system_page_is_that_of_the_end_and_stands_still(
    folder: Path, open_page: OpenPage
) -> None:
    page = open_page((folder / "index.html").as_uri())
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="System").click()
    expect(page.locator("h1")).to_have_text("System at the end")
    page.wait_for_timeout(2500)  # longer than the live page waits between two requests
    assert page.locator("[data-every]").count() == 0


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("name", ["index", "ask", "loop", "system"])
def test_a_page_of_the_site_is_accessible_and_fits(
    folder: Path, open_page: OpenPage, name: str, width: int
) -> None:
    page = open_page((folder / f"{name}.html").as_uri(), viewport={"width": width, "height": 800})
    assert violations(page) == []
    assert overflow(page) <= 0


def test_without_a_system_page_of_the_replay_no_link_leads_to_one(
    site: Site, tmp_path: Path
) -> None:
    with httpx.Client(base_url=site.url, timeout=60) as http:
        copy_pages(http, tmp_path / "site", moment(48), 2, None)
    assert not (tmp_path / "site" / "system.html").exists()
    assert "System" not in (tmp_path / "site" / "loop.html").read_text()


def test_every_link_and_script_is_a_file_of_the_site(folder: Path) -> None:
    pages = sorted(folder.rglob("*.html"))
    assert len(pages) >= 4
    for page in pages:
        for target in re.findall(r'(?:href|src)="([^"#][^"]*)"', page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_the_logged_prediction_is_the_one_of_the_browser(
    site: Site, folder: Path, browser: Browser
) -> None:
    log: PredictionLog = site.app.state.app_state.log
    rows = log.served(moment(47), moment(49))
    found = probabilities_in_the_browser(browser, small_model(), rows)
    assert np.abs(found - rows.probability.to_numpy()).max() < TOLERANCE
