"""Visitors on the pages leave predictions as fast as they are without, measured in one run.

The limit is generous, because both share the cores of whatever machine runs the tests: a query that
holds the prediction log, or a page that is rendered in the event loop, costs far more.
"""

from pathlib import Path
from statistics import median
from time import perf_counter

import httpx
import pytest

from experiments.page_visitors import visitors
from tests.browser.conftest import Site, running
from tests.unit.serving.fakes import AUTHENTICATED
from tests.unit.serving.page_fakes import prediction_request

pytestmark = pytest.mark.slow

ROUNDS, PREDICTIONS, VISITORS = 3, 100, 4
LIMIT = 5.0  # times the median without visitors


def seconds_per_prediction(site: Site, first: int) -> list[float]:
    found = []
    with httpx.Client(base_url=site.url, headers=AUTHENTICATED, timeout=30) as http:
        for i in range(PREDICTIONS):
            started = perf_counter()
            http.post("/predict", json=prediction_request(first + i)).raise_for_status()
            found.append(perf_counter() - started)
    return found


def test_visitors_do_not_slow_predictions(tmp_path: Path) -> None:
    alone: list[float] = []
    visited: list[float] = []
    with running(tmp_path) as site:
        seconds_per_prediction(site, 0)  # warm
        for number in range(ROUNDS):
            first = PREDICTIONS * (1 + 2 * number)
            alone += seconds_per_prediction(site, first)
            with visitors(site.url, VISITORS):
                visited += seconds_per_prediction(site, first + PREDICTIONS)
    ratio = median(visited) / median(alone)
    print(f"median with visitors / without: {ratio:.2f}")
    assert ratio < LIMIT


def test_a_page_that_fails_ends_the_visit(tmp_path: Path) -> None:
    refused = pytest.raises(RuntimeError, match="must see the pages")
    with running(tmp_path) as site, refused, visitors(f"{site.url}/nothing", 1):
        pass
