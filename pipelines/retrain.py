"""Retrain: train a challenger on everything known now and start its shadow deployment.

    python -m pipelines.retrain --as-of TIME

The challenger scores live traffic in the background until the gate evaluates it
(`pipelines.promote`).
"""

import argparse
from datetime import datetime
from typing import Any

import httpx
from prefect import flow, task

from ontime.data.timestamps import parse_utc
from ontime.settings import Settings
from ontime.storage.decision_log import open_decision_log
from pipelines.train import train

RELOAD_TIMEOUT_S = 60.0  # the API downloads, validates and smoke-tests the model


@task(retries=5, retry_delay_seconds=2)  # 409 while the API polls the registry
def reload_api(settings: Settings) -> dict[str, Any]:
    """Make the API load champion and challenger now, not at its next poll of the registry."""
    url, headers = f"{settings.api_url}/model/reload", settings.client_headers
    response = httpx.post(url, headers=headers, timeout=RELOAD_TIMEOUT_S)
    loaded: dict[str, Any] = response.raise_for_status().json()
    return loaded


@flow(name="retrain")
def retrain(as_of: datetime, decision_id: str | None = None) -> dict[str, Any]:
    """Train a challenger and have the API score with it; its version is recorded with the decision.

    A decision is carried out once. Monitoring starts the same training again if it runs before the
    first one has finished; that second run, which Prefect queues behind the first, does nothing.
    """
    settings = Settings()
    log = open_decision_log(settings)
    if decision_id is not None and decision_id not in [
        row["decision_id"] for row in log.unfinished() if row["challenger"] is None
    ]:
        return {"version": None, "reason": "carried out already"}
    version = train(as_of, baselines=())
    if decision_id is not None:
        log.record_challenger(decision_id, version)
    try:
        reload_api(settings)
    except httpx.HTTPError as error:  # a training does not depend on the API
        print(f"  the API loads version {version} at its next poll, not now: {error}")
    return {"version": version}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc, required=True)
    retrain(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
