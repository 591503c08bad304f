"""prefect.yaml against the code: what it names exists, and the event it waits for is emitted."""

import importlib
import inspect
from datetime import UTC, datetime

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow

from ontime.settings import ROOT
from pipelines import monitor as monitoring_flow
from pipelines.retrain import retrain

DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"])
def test_each_deployment_names_a_flow_and_parameters_that_it_takes(
    deployment: dict[str, object],
) -> None:
    path, name = str(deployment["entrypoint"]).split(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(flow, Flow)
    given = deployment.get("parameters", {})
    assert isinstance(given, dict)
    assert set(given) <= set(inspect.signature(flow.fn).parameters)


def test_a_schedule_is_one_that_the_replay_does_not_need_and_starts_without_parameters() -> None:
    """Where the past is replayed the wall clock must not look: it would find nothing to judge."""
    scheduled = {d["entrypoint"]: d["schedules"] for d in DEPLOYMENTS if "schedules" in d}
    assert set(scheduled) == {"pipelines/monitor.py:monitor"}
    ((schedule,),) = scheduled.values()
    assert schedule["active"] is False
    CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    required = [
        name
        for name, parameter in inspect.signature(monitoring_flow.monitor.fn).parameters.items()
        if parameter.default is parameter.empty
    ]
    assert required == []


def test_a_decided_retrain_emits_the_event_that_starts_the_deployment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emitted: dict[str, object] = {}
    monkeypatch.setattr(monitoring_flow, "emit_event", lambda **event: emitted.update(event))
    monkeypatch.setenv("ONTIME_RETRAIN_BY_EVENT", "true")
    monitoring_flow.start_retrain(datetime(2013, 7, 3, tzinfo=UTC), "d1")

    (retraining,) = (d for d in DEPLOYMENTS if d["entrypoint"] == "pipelines/retrain.py:retrain")
    (trigger,) = retraining["triggers"]
    assert trigger["expect"] == [emitted["event"]]
    pattern = trigger["match"]["prefect.resource.id"].removesuffix("*")
    resource, payload = emitted["resource"], emitted["payload"]
    assert isinstance(resource, dict)
    assert isinstance(payload, dict)
    assert resource["prefect.resource.id"].startswith(pattern)
    assert set(trigger["parameters"]) == set(inspect.signature(retrain.fn).parameters)
    for name, template in trigger["parameters"].items():
        assert template == f"{{{{ event.payload.{name} }}}}"
        assert name in payload
