"""Retrain: a challenger from everything known by now, the gate, and the swap if it passes.

python -m pipelines.retrain --as-of 2013-07-01
"""

import argparse
from datetime import datetime
from typing import Any

import httpx
from prefect import flow, task

from ontime.clock import parse_moment
from ontime.settings import Settings
from pipelines.promote import promote
from pipelines.train import QUICK_BASELINES, train

RELOAD_TIMEOUT_S = 60.0  # loads a model and asks it the probe's questions


@task(retries=2, retry_delay_seconds=2)
def reload_api() -> dict[str, Any]:
    """Tell the API to follow the alias now; it would notice by itself at its next poll."""
    url = f"{Settings().api_url}/model/reload"
    answer: dict[str, Any] = httpx.post(url, timeout=RELOAD_TIMEOUT_S).raise_for_status().json()
    return answer


@flow(name="retrain")
def retrain(as_of: datetime, decision_id: str | None = None) -> dict[str, Any]:
    """Train, judge, and swap if the gate says so; what came of it is written on the decision.

    A decision is carried out once: a look of the monitoring while its retrain is under way asks for
    it again, and Prefect runs that second one after the first.
    """
    from ontime.decision_log import open_decision_log

    log = open_decision_log(Settings())
    if decision_id is not None and decision_id not in log.unfinished():
        return {"version": None, "promoted": False, "reasons": ["carried out already"]}
    version = train(as_of, baselines=QUICK_BASELINES)
    verdict = promote(as_of)
    if decision_id is not None:
        log.conclude(decision_id, version, verdict["promote"], list(verdict["reasons"]))
    if verdict["promote"]:
        reload_api()
    return {"version": version, "promoted": verdict["promote"], "reasons": verdict["reasons"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_moment, required=True)
    retrain(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
