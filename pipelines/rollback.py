"""Rollback: make the previous champion the champion again and have the API load it.

While a canary runs, its instances go back to the champion.

python -m pipelines.rollback
"""

from datetime import UTC, datetime

from prefect import flow

from ontime.registry.champion_history import (
    change_champion,
    previous_champion,
    reconcile_champion,
)
from ontime.settings import Settings
from ontime.storage.decision_log import canary_of, open_decision_log
from pipelines.retrain import reload_api


@flow(name="rollback")
def rollback(reason: str = "requested by an operator") -> str:
    """Take the last promotion or canary back; returns the version that is champion now.

    Raises:
        LookupError: if there was no champion before this one.
    """
    settings = Settings()
    log = open_decision_log(settings)
    champion, n_changes = reconcile_champion(settings, log)
    changes = log.changes()
    canary, previous = canary_of(changes), previous_champion(changes)
    if previous is None:
        raise LookupError(f"a rollback needs an earlier champion; {champion} is the first one")
    replaced, now = canary.version if canary else champion, datetime.now(UTC)
    change_champion(settings, log, "rollback", previous, replaced, n_changes + 1, now, [reason])
    reload_api(settings)
    print(f"version {previous} takes all instances again instead of {replaced}")
    return previous


if __name__ == "__main__":
    rollback()
