"""Changes of the champion: the rows of `champion_changes` are the truth, the alias follows."""

from datetime import datetime

from ontime.errors import RegistryUnavailable
from ontime.registry import model_registry as registry
from ontime.registry.model_registry import CHAMPION
from ontime.settings import Settings
from ontime.storage.decision_log import ChampionChange, DecisionLog, champion_of


def reconcile_champion(settings: Settings, log: DecisionLog) -> tuple[str | None, int]:
    """Make the alias follow the last change; returns the champion and the number of changes.

    The two differ if a process was killed after it had reserved a change.
    """
    changes = log.changes()
    champion, alias = champion_of(changes), registry.resolve(settings, CHAMPION)
    if champion is not None and champion != alias:
        registry.set_alias(settings, CHAMPION, champion)
    return champion or alias, len(changes)


def change_champion(
    settings: Settings,
    log: DecisionLog,
    kind: str,
    version: str,
    replaced: str | None,
    number: int,
    as_of: datetime,
    reasons: list[str],
    share: float | None = None,
) -> None:
    """Make a version the champion, or the canary of a share, as change ``number``.

    Raises:
        ChampionChanged: if a change with that number exists; nothing was changed.
        RegistryUnavailable: if the alias could not be moved; nothing was changed.
    """
    log.reserve_change(ChampionChange(number, kind, version, replaced, as_of, reasons, share))
    if share is not None:  # the API reads a canary from the database
        return
    try:
        registry.set_alias(settings, CHAMPION, version)
    except RegistryUnavailable:
        log.cancel_change(number)
        raise


def previous_champion(changes: list[ChampionChange]) -> str | None:
    """The target of a rollback: the champion before the current one, past earlier rollbacks.

    While a canary runs, that is the champion: a rollback takes the canary back.
    """
    champions: list[str] = []
    for change in changes:
        if change.kind == "rollback":
            champions.pop()
        elif change.version not in champions[-1:]:  # a wider canary, or its promotion
            champions.append(change.version)
    return champions[-2] if len(champions) > 1 else None
