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
from tests.browser.test_in_browser import violations
from tests.unit.serving.page_fakes import moment, small_model

TOLERANCE = 1e-5  # of a probability: the browser computes in float64, the service in float32
N_FRAMES = 30


@pytest.fixture(scope="module")
def folder(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    with httpx.Client(base_url=site.url, timeout=60) as http:
        ids = copy_pages(http, folder, moment(48), N_FRAMES)
    log = site.app.state.app_state.log
    rows = log.served(moment(-1), moment(49))
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
