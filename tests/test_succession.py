"""Champions, one after the other: where a rollback leads, and what a crash in between leaves."""

from datetime import UTC, datetime

import pytest

from ontime import registry, succession
from ontime.decision_log import ChampionChange, ChampionChanged, DecisionLog
from ontime.prediction_log import PredictionLog
from ontime.settings import Settings

NOW = datetime(2013, 6, 1, tzinfo=UTC)


class Aliases:
    """A registry that is nothing but its aliases, and may be unreachable."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.reachable = True

    def resolve(self, _: Settings, alias: str) -> str | None:
        return self.names.get(alias)

    def set_alias(self, _: Settings, alias: str, version: str) -> None:
        if not self.reachable:
            raise registry.RegistryUnavailable("no answer")
        self.names[alias] = version


@pytest.fixture
def aliases(monkeypatch: pytest.MonkeyPatch) -> Aliases:
    aliases = Aliases()
    monkeypatch.setattr(registry, "resolve", aliases.resolve)
    monkeypatch.setattr(registry, "set_alias", aliases.set_alias)
    return aliases


@pytest.fixture
def log() -> DecisionLog:
    return DecisionLog(PredictionLog("sqlite://"))


def change(number: int, kind: str, version: str, replaced: str | None) -> ChampionChange:
    return ChampionChange(number, kind, version, replaced, NOW, [])


def promote(log: DecisionLog, version: str, replaced: str | None, number: int) -> None:
    succession.change_champion(
        Settings(), log, "promotion", version, replaced, number, NOW, ["better"]
    )


def test_a_promotion_moves_the_alias_and_is_written_down(
    aliases: Aliases, log: DecisionLog
) -> None:
    promote(log, "1", None, 1)
    assert aliases.names == {"champion": "1"}
    assert succession.settled_champion(Settings(), log) == ("1", 1)


def test_of_two_promotions_judged_against_the_same_champion_the_second_is_told(
    aliases: Aliases, log: DecisionLog
) -> None:
    promote(log, "1", None, 1)
    promote(log, "2", "1", 2)
    with pytest.raises(ChampionChanged, match="version 3 was judged against 1: judge it again"):
        promote(log, "3", "1", 2)
    assert aliases.names == {"champion": "2"}


def test_a_promotion_that_cannot_move_the_alias_leaves_no_trace(
    aliases: Aliases, log: DecisionLog
) -> None:
    promote(log, "1", None, 1)
    aliases.reachable = False
    with pytest.raises(registry.RegistryUnavailable):
        promote(log, "2", "1", 2)
    assert [row.version for row in log.changes()] == ["1"]


def test_a_process_killed_between_claim_and_alias_is_finished_by_the_next(
    aliases: Aliases, log: DecisionLog
) -> None:
    promote(log, "1", None, 1)
    log.claim(change(2, "promotion", "2", "1"))  # killed here
    assert succession.settled_champion(Settings(), log) == ("2", 2)
    assert aliases.names == {"champion": "2"}


@pytest.mark.parametrize(
    ("changes", "leads_to"),
    [
        ([], None),
        ([("promotion", "1")], None),
        ([("promotion", "1"), ("promotion", "2")], "1"),
        ([("promotion", "1"), ("promotion", "2"), ("rollback", "1")], None),
        ([("promotion", "1"), ("promotion", "2"), ("promotion", "3"), ("rollback", "2")], "1"),
        ([("promotion", "1"), ("promotion", "2"), ("rollback", "1"), ("promotion", "3")], "1"),
    ],
)
def test_a_rollback_leads_to_the_champion_before_past_earlier_rollbacks(
    changes: list[tuple[str, str]], leads_to: str | None
) -> None:
    rows = [change(i, kind, version, None) for i, (kind, version) in enumerate(changes, start=1)]
    assert succession.previous_champion(rows) == leads_to


def test_a_decision_on_the_same_evidence_is_written_once_and_concluded_once(
    log: DecisionLog,
) -> None:
    decision = {
        "decision_id": "d1",
        "decided_at": NOW,
        "action": "retrain",
        "reasons": ["calibration"],
        "evidence": {"gap": 0.1},
    }
    assert log.record(decision)
    assert not log.record(decision)
    assert log.unfinished() == ["d1"]
    log.conclude("d1", "7", promoted=False, reasons=["no better"])
    assert log.unfinished() == []
    (row,) = log.decisions()
    assert (row["challenger"], row["result"], row["result_reasons"]) == (
        "7",
        "refused",
        ["no better"],
    )
