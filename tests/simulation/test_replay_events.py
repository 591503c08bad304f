"""What a report says of decisions and changes of the champion, and when."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from monitoring.retrain_policy import SHADOW_PERIOD
from ontime.storage.decision_log import ChampionChange, DecisionLog
from simulation.report import replay_events

START = datetime(2020, 7, 1, tzinfo=UTC)
DAY = timedelta(days=1)
GATE = START + SHADOW_PERIOD


class Log:
    """Three challengers: rejected in shadow, rolled back as a canary, promoted after one."""

    def decisions(self) -> list[dict[str, Any]]:
        reasons = [{"code": "scheduled", "text": "it is time"}]
        results = {"2": "rejected", "3": "rejected", "4": "promoted"}
        return [
            {"decided_at": START, "action": "retrain", "challenger": version, "reasons": reasons}
            | {"result": result, "result_reasons": ["why"]}
            for version, result in results.items()
        ]

    def changes(self) -> list[ChampionChange]:
        steps: list[tuple[str, str, str | None, int, float | None]] = [
            ("promotion", "1", None, 0, None),
            ("canary", "3", "1", 0, 0.05),
            ("rollback", "1", "3", 1, None),
            ("canary", "4", "1", 2, 0.05),
            ("canary", "4", "1", 3, 0.25),
            ("promotion", "4", "1", 4, None),
            ("rollback", "1", "4", 9, None),
        ]
        return [
            ChampionChange(number, kind, version, replaced, GATE + days * DAY, ["why"], share)
            for number, (kind, version, replaced, days, share) in enumerate(steps, start=1)
        ]


def test_the_result_of_a_canary_is_at_its_end_and_each_share_is_marked() -> None:
    found = [
        (datetime.fromisoformat(event["at"]), event["kind"], event["label"])
        for event in replay_events(cast(DecisionLog, Log()))
        if event["kind"] != "retrain"
    ]
    assert sorted(found) == sorted(
        [
            (GATE, "rejected", "v2"),
            (GATE, "canary", "v3 5%"),
            (GATE + DAY, "rejected", "v3"),
            (GATE + DAY, "rollback", "v1"),
            (GATE + 2 * DAY, "canary", "v4 5%"),
            (GATE + 3 * DAY, "canary", "v4 25%"),
            (GATE + 4 * DAY, "promoted", "v4"),
            (GATE + 9 * DAY, "rollback", "v1"),
        ]
    )
