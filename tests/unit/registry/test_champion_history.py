"""Changes of the champion: the target of a rollback, and the state after a crash."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ontime.errors import ChampionChanged, RegistryUnavailable
from ontime.registry import champion_history, model_registry
from ontime.settings import Settings
from ontime.storage.decision_log import ChampionChange, DecisionLog
from ontime.storage.prediction_log import PredictionLog

NOW = datetime(2024, 6, 1, tzinfo=UTC)


class FakeAliases:
    """The aliases of a registry, which may be unreachable."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.reachable = True

    def resolve(self, _: Settings, alias: str) -> str | None:
        return self.names.get(alias)

    def set_alias(self, _: Settings, alias: str, version: str) -> None:
        if not self.reachable:
            raise RegistryUnavailable("no response")
        self.names[alias] = version


@pytest.fixture
def aliases(monkeypatch: pytest.MonkeyPatch) -> FakeAliases:
    aliases = FakeAliases()
    monkeypatch.setattr(model_registry, "resolve", aliases.resolve)
    monkeypatch.setattr(model_registry, "set_alias", aliases.set_alias)
    return aliases


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    log = PredictionLog(f"sqlite:///{tmp_path}/predictions.db")
    log.migrate()
    yield DecisionLog(log)
    log.close()


def change(number: int, kind: str, version: str, replaced: str | None) -> ChampionChange:
    return ChampionChange(number, kind, version, replaced, NOW, [])


def promote(log: DecisionLog, version: str, replaced: str | None, number: int) -> None:
    champion_history.change_champion(
        Settings(), log, "promotion", version, replaced, number, NOW, ["better"]
    )


def test_a_promotion_moves_the_alias_and_is_logged(aliases: FakeAliases, log: DecisionLog) -> None:
    promote(log, "1", None, 1)
    assert aliases.names == {"champion": "1"}
    assert champion_history.reconcile_champion(Settings(), log) == ("1", 1)


def test_of_two_promotions_over_the_same_champion_the_second_fails(
    aliases: FakeAliases, log: DecisionLog
) -> None:
    promote(log, "1", None, 1)
    promote(log, "2", "1", 2)
    with pytest.raises(ChampionChanged, match="3 was evaluated against 1: evaluate it again"):
        promote(log, "3", "1", 2)
    assert aliases.names == {"champion": "2"}


def test_a_promotion_that_cannot_move_the_alias_leaves_no_trace(
    aliases: FakeAliases, log: DecisionLog
) -> None:
    promote(log, "1", None, 1)
    aliases.reachable = False
    with pytest.raises(RegistryUnavailable):
        promote(log, "2", "1", 2)
    assert [row.version for row in log.changes()] == ["1"]


def test_a_promotion_killed_before_the_alias_moved_is_completed(
    aliases: FakeAliases, log: DecisionLog
) -> None:
    promote(log, "1", None, 1)
    log.reserve_change(change(2, "promotion", "2", "1"))  # killed here
    assert champion_history.reconcile_champion(Settings(), log) == ("2", 2)
    assert aliases.names == {"champion": "2"}


def test_a_canary_leaves_the_alias_until_its_promotion(
    aliases: FakeAliases, log: DecisionLog
) -> None:
    promote(log, "1", None, 1)
    for number, share in ((2, 0.05), (3, 0.25)):
        champion_history.change_champion(
            Settings(), log, "canary", "2", "1", number, NOW, ["no guard failed"], share
        )
        assert champion_history.reconcile_champion(Settings(), log) == ("1", number)
        assert aliases.names == {"champion": "1"}
    with pytest.raises(ChampionChanged):
        champion_history.change_champion(Settings(), log, "rollback", "1", "2", 3, NOW, [])
    promote(log, "2", "1", 4)
    assert aliases.names == {"champion": "2"}
    assert [change.share for change in log.changes()] == [None, 0.05, 0.25, None]


@pytest.mark.parametrize(
    ("changes", "previous"),
    [
        ([], None),
        ([("promotion", "1")], None),
        ([("promotion", "1"), ("promotion", "2")], "1"),
        ([("promotion", "1"), ("promotion", "2"), ("rollback", "1")], None),
        ([("promotion", "1"), ("promotion", "2"), ("promotion", "3"), ("rollback", "2")], "1"),
        ([("promotion", "1"), ("promotion", "2"), ("rollback", "1"), ("promotion", "3")], "1"),
        ([("promotion", "1"), ("canary", "2")], "1"),
        ([("promotion", "1"), ("canary", "2"), ("canary", "2"), ("rollback", "1")], None),
        ([("promotion", "1"), ("canary", "2"), ("canary", "2"), ("promotion", "2")], "1"),
    ],
)
def test_a_rollback_skips_champions_that_were_rolled_back(
    changes: list[tuple[str, str]], previous: str | None
) -> None:
    rows = [change(i, kind, version, None) for i, (kind, version) in enumerate(changes, start=1)]
    assert champion_history.previous_champion(rows) == previous


def test_a_decision_on_the_same_evidence_is_recorded_once(log: DecisionLog) -> None:
    reason = {"code": "calibration", "value": 0.1, "limit": 0.03, "text": "0.1 is above 0.03"}
    decision = {
        "decision_id": "d1",
        "decided_at": NOW,
        "action": "retrain",
        "reasons": [reason],
        "evidence": {"bias": 0.1},
    }
    assert log.record(decision)
    assert not log.record(decision)
    assert [row["challenger"] for row in log.unfinished()] == [None], "in training"
    log.record_challenger("d1", "7")
    assert [row["challenger"] for row in log.unfinished()] == ["7"], "in shadow"
    log.record_result("d1", promoted=False, reasons=["no better"])
    assert log.unfinished() == []
    (row,) = log.decisions()
    assert row == log.last()
    assert row["reasons"] == [reason]
    result = (row["challenger"], row["result"], row["result_reasons"])
    assert result == ("7", "rejected", ["no better"])
