"""Rollback: the champion before this one serves again, within seconds.

python -m pipelines.rollback
"""

from datetime import UTC, datetime

from prefect import flow

from ontime.settings import Settings
from pipelines.retrain import reload_api


@flow(name="rollback")
def rollback(reason: str = "asked for by a person") -> str:
    """Give the alias back to the champion before; the version that serves now.

    Raises:
        LookupError: if there was no champion before this one.
    """
    from ontime.decision_log import open_decision_log
    from ontime.succession import change_champion, previous_champion, settled_champion

    settings = Settings()
    log = open_decision_log(settings)
    champion, changes = settled_champion(settings, log)
    previous = previous_champion(log.changes())
    if previous is None:
        raise LookupError(f"no champion before version {champion}: nothing to go back to")
    now = datetime.now(UTC)
    change_champion(settings, log, "rollback", previous, champion, changes + 1, now, [reason])
    reload_api()
    print(f"version {previous} serves again instead of {champion}")
    return previous


if __name__ == "__main__":
    rollback()
