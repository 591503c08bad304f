"""prefect.yaml against the code: its entrypoints exist, and the event it expects is emitted."""

import importlib
import inspect
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow

from ontime.settings import ROOT, Settings
from pipelines import monitor as monitoring_flow

DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
(RETRAIN,) = (each for each in DEPLOYMENTS if each["entrypoint"] == "pipelines/retrain.py:retrain")


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    path, name = deployment["entrypoint"].split(":")
    found = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    return found


def required(flow: Flow[..., Any]) -> set[str]:
    parameters = inspect.signature(flow.fn).parameters.values()
    return {each.name for each in parameters if each.default is each.empty}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"])
def test_each_deployment_is_a_flow_that_starts_with_its_parameters(
    deployment: dict[str, Any],
) -> None:
    given = {name for each in deployment.get("triggers", []) for name in each["parameters"]}
    assert required(flow_of(deployment)) <= given
    assert not deployment.get("parameters"), "defaults are in the flows, dates in the problem"


def test_the_deployments_that_the_alerts_name_exist() -> None:
    alerts = (ROOT / "infra" / "prometheus" / "alerts.yml").read_text()
    named = set(re.findall(r"\b(\w[\w-]*)/ontime\b", alerts))
    assert named
    assert named <= {flow_of(each).name for each in DEPLOYMENTS}


def test_monitoring_and_canary_have_schedules_and_they_are_inactive() -> None:
    """Where the past is replayed, a run by the wall clock would find no prediction."""
    schedules = {
        each["entrypoint"]: each["schedules"] for each in DEPLOYMENTS if "schedules" in each
    }
    assert set(schedules) == {"pipelines/monitor.py:monitor", "pipelines/canary.py:canary"}
    for (schedule,) in schedules.values():
        assert schedule["active"] is False
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def test_a_decision_to_retrain_emits_the_event_that_starts_the_deployment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emitted: dict[str, Any] = {}
    monkeypatch.setattr(monitoring_flow, "emit_event", lambda **event: emitted.update(event))
    settings = Settings(retrain_via_events=True)
    monitoring_flow.start_retrain(settings, datetime(2020, 7, 3, tzinfo=UTC), "d1")

    (trigger,) = RETRAIN["triggers"]
    assert trigger["expect"] == [emitted["event"]]
    pattern = trigger["match"]["prefect.resource.id"].removesuffix("*")
    assert emitted["resource"]["prefect.resource.id"].startswith(pattern)
    assert set(trigger["parameters"]) == set(inspect.signature(flow_of(RETRAIN).fn).parameters)
    for name, template in trigger["parameters"].items():
        assert template == f"{{{{ event.payload.{name} }}}}"
        assert name in emitted["payload"]
