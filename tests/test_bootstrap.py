"""The bootstrap makes a first champion once, and says when it could not."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from ontime import registry
from pipelines import bootstrap as bootstrap_flow

AS_OF = datetime(2013, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with prefect_test_harness():
        yield


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that ran; there is no champion, and the gate lets the first model through."""
    ran: list[str] = []
    monkeypatch.setattr(registry, "resolve", lambda *_: None)
    verdict = {"promote": True, "challenger": "1", "reasons": ["better than the base rate"]}
    results: dict[str, Any] = dict.fromkeys(("ingest", "materialize", "train"))
    for name, result in (results | {"promote": verdict}).items():

        def step(*_: Any, name: str = name, result: Any = result, **__: Any) -> Any:
            ran.append(name)
            return result

        monkeypatch.setattr(bootstrap_flow, name, step)
    return ran


def test_it_goes_from_the_source_to_a_champion(steps: list[str]) -> None:
    assert bootstrap_flow.bootstrap(AS_OF) == "1"
    assert steps == ["ingest", "materialize", "train", "promote"]


def test_where_a_champion_is_nothing_is_done(
    steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "resolve", lambda *_: "7")
    assert bootstrap_flow.bootstrap(AS_OF) == "7"
    assert steps == []


def test_a_failure_is_tried_again_and_a_refusal_says_why(
    steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {"promote": False, "challenger": "1", "reasons": ["worse than the base rate"]}
    monkeypatch.setattr(bootstrap_flow, "promote", lambda _: refused)
    impatient = bootstrap_flow.bootstrap.with_options(retry_delay_seconds=0)
    with pytest.raises(RuntimeError, match="may not serve: worse than the base rate"):
        impatient(AS_OF)
    assert steps == ["ingest", "materialize", "train"] * 3


def test_a_run_that_failed_on_the_worker_fails_the_bootstrap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployed: list[list[str]] = []
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: deployed.append(command))
    monkeypatch.setattr(sys, "argv", ["bootstrap", "--as-of", "2013-05-01"])
    failed = SimpleNamespace(state=SimpleNamespace(is_completed=lambda: False))

    def run_deployment(name: str, parameters: dict[str, Any]) -> SimpleNamespace:
        asked.append({name: parameters})
        return failed

    monkeypatch.setattr(bootstrap_flow, "run_deployment", run_deployment)
    with pytest.raises(SystemExit, match="the bootstrap must complete"):
        bootstrap_flow.main()
    assert deployed[0][-2:] == ["deploy", "--all"]
    assert asked == [{"bootstrap/ontime": {"as_of": AS_OF}}]
