"""Every view in Chromium: wide and narrow, light and dark, by keyboard, and while a replay runs."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from ontime.problem import SLIDERS
from tests.browser.conftest import OpenPage, Site
from tests.unit.serving.page_fakes import instance_id

VIEWS = {
    "board": "/",
    "instance": f"/instances/{quote(instance_id(0))}",
    "ask": "/ask",
    "loop": "/loop",
    "card": "/loop/card",
    "system": "/system",
    "error": "/instances/nothing",
}
SIZES = {"wide": (1280, 900), "phone": (360, 740)}
WAIT_MS = 20_000


def link(hours: int) -> str:
    return f'a[href="/instances/{quote(instance_id(hours))}"]'


def violations(page: Page) -> list[str]:
    # Without the preload it fetches style sheets again, which a page from disk may not.
    found = Axe().run(page, options={"preload": False}).response["violations"]
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:150]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.evaluate(script))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_accessible_and_fits(
    site: Site, open_page: OpenPage, view: str, scheme: str, size: str
) -> None:
    width, height = SIZES[size]
    page = open_page(
        site.url + VIEWS[view],
        failures=view == "error",
        color_scheme=scheme,
        viewport={"width": width, "height": height},
    )
    expect(page.locator("h1")).to_be_visible()
    assert violations(page) == []
    assert overflow(page) <= 0


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_fits_at_200_percent(site: Site, open_page: OpenPage, view: str) -> None:
    """Zoom halves the window in CSS pixels and doubles the pixels of each."""
    zoomed = {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2}
    page = open_page(site.url + VIEWS[view], failures=view == "error", **zoomed)
    assert overflow(page) <= 0
    expect(page.locator("nav").first).to_be_visible()


def test_the_board_moves_with_a_replay_and_keeps_the_focus(
    new_site: Site, open_page: OpenPage
) -> None:
    new_site.predict(0)
    page = open_page(new_site.url)
    expect(page.locator(link(0))).to_have_count(1)
    page.locator(link(0)).focus()

    new_site.report(0)
    new_site.predict(20)
    expect(page.locator(link(20))).to_have_count(1, timeout=WAIT_MS)
    expect(page.locator(f"[aria-labelledby=outcomes] {link(0)}")).to_have_count(1, timeout=WAIT_MS)
    expect(page.locator(link(0))).to_be_focused()

    new_site.predict(40)
    expect(page.locator(link(40))).to_have_count(1, timeout=WAIT_MS)
    expect(page.locator(link(0))).to_have_count(0)
    expect(page.get_by_role("status")).to_contain_text("Live")


def test_the_board_of_a_moment_does_not_move(new_site: Site, open_page: OpenPage) -> None:
    new_site.predict(0)
    page = open_page(new_site.url)
    page.get_by_role("link", name="Earlier").click()
    assert "at=" in page.url
    expect(page.get_by_role("link", name="Newest")).to_be_visible()
    new_site.predict(24)
    page.wait_for_timeout(2500)
    expect(page.locator(link(24))).to_have_count(0)


def test_a_service_that_stops_leaves_its_last_state(new_site: Site, open_page: OpenPage) -> None:
    new_site.predict(0)
    page = open_page(new_site.url, failures=True)
    expect(page.locator(link(0))).to_have_count(1)
    page.route("**/board", lambda route: route.abort())
    new_site.predict(24)
    expect(page.get_by_role("status")).to_contain_text("does not answer", timeout=WAIT_MS)
    expect(page.locator(link(0))).to_have_count(1)


def test_without_a_champion_every_page_says_so(empty_site: Site, open_page: OpenPage) -> None:
    page = open_page(empty_site.url)
    expect(page.get_by_text("Nothing has been predicted yet")).to_be_visible()
    expect(page.get_by_role("banner")).to_contain_text("No model deployed")
    assert violations(page) == []
    page.goto(f"{empty_site.url}/loop")
    expect(page.get_by_text("No model was deployed yet")).to_be_visible()


def test_the_question_without_a_champion_gets_the_reason(
    empty_site: Site, open_page: OpenPage
) -> None:
    page = open_page(f"{empty_site.url}/ask", failures=True)
    page.get_by_role("button", name="Ask the model").click()
    expect(page.get_by_role("alert")).to_contain_text("needs a champion")


def test_a_slider_answers_to_the_keyboard_and_is_taken_back(
    site: Site, open_page: OpenPage
) -> None:
    page = open_page(site.url + VIEWS["instance"])
    answer, note = page.locator("#answer"), page.locator("#answer-note")
    before = answer.text_content()
    slider = page.get_by_label(SLIDERS[-1].label)
    slider.focus()
    page.keyboard.press("Home")
    expect(note).to_contain_text("with changed inputs")
    assert re.fullmatch(r"\d+ %", answer.text_content() or "")
    expect(page.locator(f'output[for="{slider.get_attribute("id")}"]')).to_have_text(
        f"{SLIDERS[-1].low:g}"
    )
    page.get_by_role("button", name="As it was").click()
    expect(note).to_contain_text("as it was")
    assert answer.text_content() == before


def test_a_bar_opens_with_its_inputs(site: Site, open_page: OpenPage) -> None:
    page = open_page(site.url + VIEWS["instance"])
    bar = page.locator(".bars details").first
    bar.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(bar.locator("dl")).to_be_visible()


def test_a_question_is_answered_and_a_wrong_one_names_the_field(
    site: Site, open_page: OpenPage
) -> None:
    page = open_page(f"{site.url}/ask", failures=True)
    page.get_by_role("button", name="Ask the model").click()
    expect(page.locator("#ask-answer .big")).to_have_text(re.compile(r"^\d+ %$"))

    time = page.locator("[data-kind=time]").last
    time.fill("")
    page.get_by_role("button", name="Ask the model").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("cannot answer")
    label = page.locator(f'label[for="{time.get_attribute("id")}"]').text_content() or ""
    expect(alert).to_contain_text(label)
    expect(time).to_have_attribute("aria-invalid", "true")
    assert violations(page) == []


def test_the_first_tab_skips_to_the_content(site: Site, open_page: OpenPage) -> None:
    page = open_page(site.url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_the_pages_work_without_a_script(site: Site, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(site.url, java_script_enabled=False)
    page.locator("table a").first.click()
    expect(page.get_by_role("heading", name="Why")).to_be_visible()
