"""The succession of champions: claim a place in the decision log, then move the alias."""

from datetime import datetime

from ontime import registry
from ontime.decision_log import ChampionChange, DecisionLog
from ontime.registry import CHAMPION, RegistryUnavailable
from ontime.settings import Settings


def settled_champion(settings: Settings, log: DecisionLog) -> tuple[str | None, int]:
    """The champion and the number of the last change.

    If a process was killed between claiming a change and moving the alias, the alias is moved now.
    """
    changes = log.changes()
    serving = registry.resolve(settings, CHAMPION)
    if changes and changes[-1].version != serving:
        serving = changes[-1].version
        registry.set_alias(settings, CHAMPION, serving)
    return serving, len(changes)


def change_champion(
    settings: Settings,
    log: DecisionLog,
    kind: str,
    version: str,
    replaced: str | None,
    number: int,
    as_of: datetime,
    reasons: list[str],
) -> None:
    """Make a version the champion, as change ``number``.

    Raises:
        ChampionChanged: if another change took that number; nothing was done.
        RegistryUnavailable: if the alias could not be moved; nothing was done.
    """
    log.claim(ChampionChange(number, kind, version, replaced, as_of, reasons))
    try:
        registry.set_alias(settings, CHAMPION, version)
    except RegistryUnavailable:
        log.withdraw(number)
        raise


def previous_champion(changes: list[ChampionChange]) -> str | None:
    """Where a rollback leads: the champion before the serving one, past earlier rollbacks."""
    line: list[str] = []
    for change in changes:
        if change.kind == "rollback":
            line.pop()
        else:
            line.append(change.version)
    return line[-2] if len(line) > 1 else None
