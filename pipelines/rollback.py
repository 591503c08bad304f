"""Rollback: make the previous champion the champion again and have the API load it.

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
from ontime.storage.decision_log import open_decision_log
from pipelines.retrain import reload_api


@flow(name="rollback")
def rollback(reason: str = "requested by an operator") -> str:
    """Move the champion back by one; returns the version that is champion now.

    Raises:
        LookupError: if there was no champion before this one.
    """
    settings = Settings()
    log = open_decision_log(settings)
    champion, n_changes = reconcile_champion(settings, log)
    previous = previous_champion(log.changes())
    if previous is None:
        raise LookupError(f"a rollback needs an earlier champion; {champion} is the first one")
    now = datetime.now(UTC)
    change_champion(settings, log, "rollback", previous, champion, n_changes + 1, now, [reason])
    reload_api(settings)
    print(f"champion is version {previous} again instead of {champion}")
    return previous


if __name__ == "__main__":
    rollback()
