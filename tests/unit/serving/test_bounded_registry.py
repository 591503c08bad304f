"""A registry that does not respond holds neither requests nor the start."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from ontime.errors import RegistryUnavailable
from serving import bounded_registry
from serving.bounded_registry import MAX_CALLS, BoundedRegistry
from tests.unit.serving.conftest import OpenApi, deployed_version, state_of
from tests.unit.serving.fakes import FakeRegistry, request_body

CLIENTS = 60  # more than the thread pool has threads


class HungRegistry(FakeRegistry):
    """Responds after `resume` only; `waiting` is set when a call arrives."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.waiting, self.resume = threading.Event(), threading.Event()
        self.resume.set()

    def _check(self) -> None:
        self.waiting.set()
        assert self.resume.wait(300)


@pytest.fixture
def hung(registry: FakeRegistry) -> Iterator[HungRegistry]:
    """A registry that responds until `resume` is cleared."""
    hung = HungRegistry(registry.root)
    yield hung
    hung.resume.set()


def test_requests_are_answered_while_the_registry_hangs(
    open_api: OpenApi, hung: HungRegistry
) -> None:
    api = open_api(registry=hung)
    hung.resume.clear()
    hung.waiting.clear()

    with ThreadPoolExecutor(CLIENTS) as clients:
        reloads = [clients.submit(api.post, "/model/reload") for _ in range(CLIENTS)]
        assert hung.waiting.wait(60)
        try:
            assert api.post("/predict", json=request_body()).status_code == 200
            assert api.get("/ready").status_code == 200
            responses = as_completed(reloads, timeout=60)
            others = [next(responses).result().status_code for _ in range(CLIENTS - 1)]
        finally:
            hung.resume.set()

    assert others == [409] * (CLIENTS - 1)


def test_a_start_with_a_hung_registry_deploys_the_cached_version(
    open_api: OpenApi, hung: HungRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deployed_version(open_api(registry=hung)) == "1"
    monkeypatch.setattr(bounded_registry, "RESOLVE_TIMEOUT_S", 0.05)
    hung.resume.clear()

    api = open_api(registry=hung)

    assert api.post("/predict", json=request_body()).json()["model_version"] == "1"
    assert "registry" in api.get("/model").json()["last_sync_error"]["detail"]


def test_calls_that_were_given_up_do_not_accumulate(
    hung: HungRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_registry, "RESOLVE_TIMEOUT_S", 0.01)
    bounded = BoundedRegistry(hung)
    hung.resume.clear()

    for _ in range(20):
        with pytest.raises(RegistryUnavailable):
            bounded.resolve("champion")

    assert sum(thread.name == "registry" for thread in threading.enumerate()) <= MAX_CALLS


def test_every_failure_of_the_registry_is_unavailability_at_the_start(
    open_api: OpenApi, registry: FakeRegistry
) -> None:
    """A corrupt database raises errors of SQLAlchemy and Alembic."""
    assert deployed_version(open_api()) == "1"
    (registry.root / "aliases.json").write_text("not JSON")

    api = open_api()

    assert deployed_version(api) == "1"
    assert api.post("/model/reload").status_code == 503
    state_of(api).manager.poll()
