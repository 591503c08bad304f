"""The bootstrap creates a first champion once, and fails with the reason if it cannot."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ontime.problem import DEMO_START
from ontime.registry import model_registry as registry
from pipelines import bootstrap as bootstrap_flow

pytestmark = pytest.mark.usefixtures("prefect_server")

PASSED = {"promote": True, "challenger": "1", "reasons": ["better than the base rate"]}
REJECTED = {"promote": False, "challenger": "1", "reasons": ["worse than the base rate"]}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the steps that ran. There is no champion, and the gate passes the first model."""
    ran: list[str] = []
    monkeypatch.setattr(registry, "resolve", lambda *_: None)
    for name in ("ingest", "build_features", "train", "promote"):

        def step(*_: Any, name: str = name, **__: Any) -> Any:
            ran.append(name)
            return PASSED

        monkeypatch.setattr(bootstrap_flow, name, step)
    return ran


def test_it_runs_from_the_source_to_a_champion(steps: list[str]) -> None:
    assert bootstrap_flow.bootstrap() == "1"
    assert steps == ["ingest", "build_features", "train", "promote"]


def test_an_existing_champion_is_kept(steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "resolve", lambda *_: "7")
    assert bootstrap_flow.bootstrap() == "7"
    assert steps == []


def test_a_failure_is_retried_and_a_rejection_has_its_reasons(
    steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap_flow, "promote", lambda _: REJECTED)
    without_delay = bootstrap_flow.bootstrap.with_options(retry_delay_seconds=0)
    with pytest.raises(RuntimeError, match="rejected the first model: worse than the base rate"):
        without_delay()
    assert steps == ["ingest", "build_features", "train"] * 3


def test_a_run_that_failed_on_the_worker_fails_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployed: list[list[str]] = []
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: deployed.append(command))
    monkeypatch.setattr(sys, "argv", ["bootstrap"])
    failed = SimpleNamespace(state=SimpleNamespace(is_completed=lambda: False))

    def run_deployment(name: str, parameters: dict[str, Any]) -> SimpleNamespace:
        started.append({name: parameters})
        return failed

    monkeypatch.setattr(bootstrap_flow, "run_deployment", run_deployment)
    with pytest.raises(SystemExit, match="the bootstrap must complete"):
        bootstrap_flow.main()
    assert deployed[0][-2:] == ["deploy", "--all"]
    assert started == [{"bootstrap/ontime": {"as_of": DEMO_START}}]
