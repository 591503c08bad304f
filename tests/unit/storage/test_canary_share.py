"""Which instances a canary answers: the same in every process, and its share of them."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from ontime.storage.decision_log import ChampionChange, canary_of, champion_of

NOW = datetime(2024, 6, 1, tzinfo=UTC)
IDS = [f"instance {i}" for i in range(20_000)]
PROGRAM = """
import sys
from datetime import UTC, datetime
from ontime.storage.decision_log import ChampionChange
change = ChampionChange(2, "canary", "2", "1", datetime(2024, 6, 1, tzinfo=UTC), [], 0.25)
print("".join("01"[change.takes(f"instance {i}")] for i in range(500)))
"""


def canary(share: float | None, version: str = "2") -> ChampionChange:
    return ChampionChange(2, "canary", version, "1", NOW, [], share)


def taken(share: float | None, version: str = "2") -> set[str]:
    change = canary(share, version)
    return {name for name in IDS if change.takes(name)}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5])
def test_the_share_of_the_instances_is_that_of_the_canary(share: float) -> None:
    deviation = (share * (1 - share) / len(IDS)) ** 0.5
    assert len(taken(share)) / len(IDS) == pytest.approx(share, abs=4 * deviation)


def test_an_instance_of_a_canary_stays_its_own_when_the_share_is_widened() -> None:
    assert taken(0.05) < taken(0.25) < taken(0.5)
    assert taken(None) == set(), "a change without a share is no canary"


def test_another_canary_has_other_instances() -> None:
    both = taken(0.25, "2") & taken(0.25, "3")
    assert len(both) / len(IDS) == pytest.approx(0.25**2, abs=0.01)


def test_another_process_splits_alike() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    ).stdout.strip()
    change = canary(0.25)
    assert found == "".join("01"[change.takes(name)] for name in IDS[:500])


def test_a_canary_is_no_champion_until_its_promotion() -> None:
    first = ChampionChange(1, "promotion", "1", None, NOW, [])
    promotion = ChampionChange(3, "promotion", "2", "1", NOW, [])
    rollback = ChampionChange(3, "rollback", "1", "2", NOW, [])
    assert (champion_of([]), canary_of([])) == (None, None)
    assert (champion_of([first]), canary_of([first])) == ("1", None)
    running = [first, canary(0.05)]
    assert (champion_of(running), canary_of(running)) == ("1", canary(0.05))
    for end, champion in ((promotion, "2"), (rollback, "1")):
        assert (champion_of([*running, end]), canary_of([*running, end])) == (champion, None)
