"""Each step of a canary is a row of the changes of the champion, whoever takes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from monitoring.canary_guards import CanaryDecision
from ontime.registry import model_registry
from ontime.registry.champion_history import change_champion
from ontime.registry.gate import GateResult
from ontime.settings import Settings
from ontime.storage.decision_log import DecisionLog
from ontime.storage.prediction_log import PredictionLog
from pipelines import canary as canary_flow
from pipelines import monitor as monitor_flow
from pipelines import promote as gate_flow
from pipelines import rollback as rollback_flow

START = datetime(2020, 7, 8, tzinfo=UTC)
DAY = timedelta(days=1)
REASONS = ["a sentence"]


@dataclass
class System:
    """The database of a data folder, the registry's aliases, and calls of the API."""

    settings: Settings
    log: DecisionLog
    aliases: dict[str, str]
    calls: list[str]

    def steps(self) -> list[tuple[str, str, str | None, float | None]]:
        return [(c.kind, c.version, c.replaced, c.share) for c in self.log.changes()]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """Version 1 is champion; a decision to retrain has version 2, which is a canary of 5 %."""
    monkeypatch.setenv("ONTIME_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ONTIME_CANARY_SHARES", "0.05,0.25")
    aliases: dict[str, str] = {"challenger": "2"}
    calls: list[str] = []
    monkeypatch.setattr(model_registry, "resolve", lambda _, alias: aliases.get(alias))
    monkeypatch.setattr(
        model_registry, "set_alias", lambda _, alias, version: aliases.update({alias: version})
    )
    monkeypatch.setattr(model_registry, "tag_version", lambda *_: None)
    for flow in (canary_flow, gate_flow, rollback_flow):
        monkeypatch.setattr(flow, "reload_api", lambda _: calls.append("reload"))
    monkeypatch.setattr(gate_flow, "promote", gate_flow.promote.fn)
    monkeypatch.setattr(gate_flow, "create_markdown_artifact", lambda **_: None)
    monkeypatch.setattr(
        gate_flow, "evaluate", lambda *_: GateResult(True, ("not clearly worse",), {})
    )
    monkeypatch.setattr(canary_flow, "PredictionLog", lambda _: Rows())
    settings = Settings()
    predictions = PredictionLog(settings.prediction_db_url)
    predictions.migrate()
    log = DecisionLog(predictions)
    decision = {"decision_id": "d1", "decided_at": START - 7 * DAY, "action": "retrain"}
    log.record(decision | {"reasons": [], "evidence": {}})
    log.record_challenger("d1", "2")
    change_champion(settings, log, "promotion", "1", None, 1, START - 30 * DAY, ["the first"])
    gate_flow.conclude_shadow(settings, log, log.decisions()[0], START)
    yield System(settings, log, aliases, calls)
    predictions.close()


class Rows:
    """Two predictions since the canary's start, one by each version."""

    asked: tuple[Any, ...] = ()

    def monitored(self, *period: datetime, known_by: datetime) -> pd.DataFrame:
        type(self).asked = (*period, known_by)
        return pd.DataFrame({"model_version": ["1", "2"], "probability": [0.1, 0.2]})


def found(monkeypatch: pytest.MonkeyPatch, *decision: Any) -> list[Any]:
    """Have the guards find this; returns what they were asked."""
    asked: list[Any] = []

    def evaluate(*arguments: Any) -> CanaryDecision:
        asked.append(arguments)
        action, *share = decision
        return CanaryDecision(action, REASONS, *share)

    model = SimpleNamespace(predict=lambda rows: np.full(len(rows), 0.9))
    monkeypatch.setattr(canary_flow, "evaluate_canary", evaluate)
    monkeypatch.setattr(model_registry, "load", lambda _, version: model if version == "1" else 1)
    return asked


def result(system: System) -> tuple[str | None, list[str] | None]:
    (row,) = system.log.decisions()
    return row["result"], row["result_reasons"]


def test_a_challenger_that_passes_the_gate_becomes_a_canary_of_the_first_share(
    system: System,
) -> None:
    assert system.steps() == [("promotion", "1", None, None), ("canary", "2", "1", 0.05)]
    assert system.log.changes()[-1].reasons == ["not clearly worse"]
    assert (system.aliases["champion"], system.calls) == ("1", ["reload"])
    assert result(system) == (None, None), "it has no result before its end"
    with pytest.raises(LookupError, match="version 2 is a canary of 5%"):
        gate_flow.promote(START, "3")


def test_a_first_model_is_champion_at_once(system: System) -> None:
    for change in system.log.changes():
        system.log.cancel_change(change.number)
    system.aliases.pop("champion")
    gate_flow.promote(START, "2")
    assert system.steps() == [("promotion", "2", None, None)]


def test_the_guards_compare_both_models_on_the_canarys_instances(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = found(monkeypatch, "wait")
    canary_flow.advance_canary(system.settings, system.log, START + DAY)
    ((rows, champion, change, shares, now),) = asked
    assert Rows.asked == (START, START + DAY, START + DAY)
    assert champion.tolist() == [0.1, 0.9], "logged, and computed from the logged features"
    assert rows.probability.tolist() == [0.1, 0.2]
    assert (change.version, change.share, shares, now) == ("2", 0.05, (0.05, 0.25), START + DAY)
    assert len(system.steps()) == 2, "nothing is recorded while it waits"


def test_a_canary_is_widened_and_promoted_and_its_result_recorded(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, "widen", 0.25)
    canary_flow.advance_canary(system.settings, system.log, START + DAY)
    assert system.steps()[2:] == [("canary", "2", "1", 0.25)]
    assert (system.aliases["champion"], result(system)) == ("1", (None, None))

    found(monkeypatch, "promote")
    canary_flow.advance_canary(system.settings, system.log, START + 2 * DAY)
    assert Rows.asked[0] == START, "from the first share on"
    assert system.steps()[3:] == [("promotion", "2", "1", None)]
    assert system.log.changes()[-1].reasons == REASONS
    assert (system.aliases["champion"], result(system)) == ("2", ("promoted", REASONS))
    assert system.calls == ["reload"] * 3
    assert canary_flow.advance_canary(system.settings, system.log, START + 3 * DAY) is None


def test_an_automatic_rollback_is_recorded_like_a_promotion(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, "rollback")
    canary_flow.advance_canary(system.settings, system.log, START + DAY)
    assert system.steps()[2:] == [("rollback", "1", "2", None)]
    change = system.log.changes()[-1]
    assert (change.as_of, change.reasons) == (START + DAY, REASONS)
    assert (system.aliases["champion"], result(system)) == ("1", ("rejected", REASONS))
    assert system.calls == ["reload"] * 2


def test_a_person_rolls_a_canary_back_and_the_next_monitoring_records_it(system: System) -> None:
    assert rollback_flow.rollback.fn("it looks odd") == "1"
    assert system.steps()[2:] == [("rollback", "1", "2", None)]
    assert result(system) == (None, None)
    gate_flow.conclude_shadow(system.settings, system.log, system.log.decisions()[0], START + DAY)
    assert result(system) == ("rejected", ["it looks odd"])
    assert system.steps()[3:] == [], "it is not evaluated again"


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_a_run_that_was_killed_before_the_result_is_completed(
    system: System, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    found(monkeypatch, action)
    with monkeypatch.context() as patch:
        patch.setattr(canary_flow, "reload_api", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            canary_flow.advance_canary(system.settings, system.log, START + DAY)
    gate_flow.conclude_shadow(
        system.settings, system.log, system.log.decisions()[0], START + 7 * DAY
    )
    assert result(system) == ({"promote": "promoted"}.get(action, "rejected"), REASONS)


@pytest.fixture
def two_decisions(system: System, monkeypatch: pytest.MonkeyPatch) -> System:
    """A second decision, whose challenger, version 3, is in shadow."""
    found(monkeypatch, "wait")
    decision = {"decision_id": "d2", "decided_at": START, "action": "retrain"}
    system.log.record(decision | {"reasons": [], "evidence": {}})
    system.log.record_challenger("d2", "3")
    return system


def test_while_a_canary_runs_the_next_gate_waits(
    two_decisions: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    concluded: list[str] = []
    monkeypatch.setattr(
        monitor_flow, "conclude_shadow", lambda *what: concluded.append(what[2]["challenger"])
    )
    monkeypatch.setattr(monitor_flow, "collect_signals", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        monitor_flow.monitor.fn(START + 7 * DAY)
    assert concluded == []

    found(monkeypatch, "promote")
    with pytest.raises(ZeroDivisionError):
        monitor_flow.monitor.fn(START + 7 * DAY)
    assert concluded == ["3"]


def test_a_canary_does_not_hold_back_the_next_training(
    two_decisions: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, histories = two_decisions, []

    def decide(_: Any, history: Any, max_age: Any) -> Any:
        histories.append(history.in_progress)
        raise InterruptedError

    monkeypatch.setattr(monitor_flow, "decide", decide)
    for step in ("both", "the canary", "the canary, which ended"):
        with pytest.raises(InterruptedError):
            monitor_flow.decide_and_record.fn(system.settings, system.log, cast(Any, None))
        if step == "both":
            system.log.record_result("d2", promoted=False, reasons=[])
        elif step == "the canary":
            rollback_flow.rollback.fn("its decision has no result yet")
    assert histories == [True, False, True]
