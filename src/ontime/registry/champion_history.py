"""Changes of the champion: the last row of `champion_changes` is the truth, the alias follows."""

from datetime import datetime

from ontime.errors import RegistryUnavailable
from ontime.registry import model_registry as registry
from ontime.registry.model_registry import CHAMPION
from ontime.settings import Settings
from ontime.storage.decision_log import ChampionChange, DecisionLog


def reconcile_champion(settings: Settings, log: DecisionLog) -> tuple[str | None, int]:
    """Make the alias follow the last change; returns the champion and the number of changes.

    The two differ if a process was killed after it had reserved a change.
    """
    changes = log.changes()
    champion = registry.resolve(settings, CHAMPION)
    if changes and changes[-1].version != champion:
        champion = changes[-1].version
        registry.set_alias(settings, CHAMPION, champion)
    return champion, len(changes)


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
        ChampionChanged: if a change with that number exists; nothing was changed.
        RegistryUnavailable: if the alias could not be moved; nothing was changed.
    """
    log.reserve_change(ChampionChange(number, kind, version, replaced, as_of, reasons))
    try:
        registry.set_alias(settings, CHAMPION, version)
    except RegistryUnavailable:
        log.cancel_change(number)
        raise


def previous_champion(changes: list[ChampionChange]) -> str | None:
    """The target of a rollback: the champion before the current one, past earlier rollbacks."""
    champions: list[str] = []
    for change in changes:
        if change.kind == "rollback":
            champions.pop()
        else:
            champions.append(change.version)
    return champions[-2] if len(champions) > 1 else None
