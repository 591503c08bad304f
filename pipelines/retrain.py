"""Retrain: train a challenger on what is known now; deploy it if it passes the gate.

python -m pipelines.retrain --as-of TIME
"""

import argparse
from datetime import datetime
from typing import Any

import httpx
from prefect import flow, task

from ontime.data.timestamps import parse_utc
from ontime.evaluation.comparison import QUICK_BASELINES
from ontime.settings import Settings
from ontime.storage.decision_log import open_decision_log
from pipelines.promote import promote
from pipelines.train import train

RELOAD_TIMEOUT_S = 60.0  # the API downloads, validates and smoke-tests the model


@task(retries=5, retry_delay_seconds=2)  # 409 while the API polls the registry
def reload_api(settings: Settings) -> dict[str, Any]:
    """Make the API load the champion now instead of at its next poll of the registry."""
    response = httpx.post(f"{settings.api_url}/model/reload", timeout=RELOAD_TIMEOUT_S)
    loaded: dict[str, Any] = response.raise_for_status().json()
    return loaded


@flow(name="retrain")
def retrain(as_of: datetime, decision_id: str | None = None) -> dict[str, Any]:
    """Train, evaluate, deploy if the gate promotes; the result is recorded with the decision.

    A decision is carried out once. Monitoring starts the same retrain again if it runs before the
    first one has finished; that second run, which Prefect queues behind the first, does nothing.
    """
    settings = Settings()
    log = open_decision_log(settings)
    if decision_id is not None and decision_id not in log.unfinished():
        return {"version": None, "promoted": False, "reasons": ["carried out already"]}
    version = train(as_of, baselines=QUICK_BASELINES)
    result = promote(as_of)
    promoted, reasons = result["promote"], list(result["reasons"])
    if decision_id is not None:
        log.record_result(decision_id, version, promoted, reasons)
    if promoted:
        reload_api(settings)
    return {"version": version, "promoted": promoted, "reasons": reasons}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc, required=True)
    retrain(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
