"""Bootstrap: deploy the flows to the Prefect server and have its worker make the first champion.

    python -m pipelines.bootstrap [--as-of TIME]

Runs whenever the stack starts: deploying again changes nothing, and an existing champion is kept.
All steps are one flow run, because a run per step would import Prefect, Feast and torch four times.
"""

import argparse
import os
import subprocess
import sys
from datetime import datetime

from prefect import flow
from prefect.deployments import run_deployment

from ontime.data.timestamps import parse_utc
from ontime.evaluation.comparison import QUICK_BASELINES
from ontime.problem import DEMO_START
from ontime.registry import model_registry as registry
from ontime.settings import ROOT, Settings
from pipelines.build_features import build_features
from pipelines.ingest import ingest
from pipelines.promote import promote
from pipelines.train import train


# Retried by Prefect: for `docker compose up --wait`, a container that exits with an error failed.
@flow(name="bootstrap", retries=2, retry_delay_seconds=5)
def bootstrap(as_of: datetime = DEMO_START) -> str:
    """Tables, features, online store and a first champion; returns the champion's version.

    Raises:
        RuntimeError: if the gate rejects the first model.
    """
    if (champion := registry.resolve(Settings(), registry.CHAMPION)) is not None:
        print(f"version {champion} is champion: nothing to do")
        return champion
    ingest()
    build_features(as_of)
    train(as_of, baselines=QUICK_BASELINES)
    result = promote(as_of)
    if not result["promote"]:
        raise RuntimeError(f"the gate rejected the first model: {'; '.join(result['reasons'])}")
    return str(result["challenger"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc, default=DEMO_START)
    as_of = parser.parse_args().as_of
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env=os.environ | {"PWD": str(ROOT)},  # read by prefect.yaml, set by shells only
        check=True,
    )
    run = run_deployment("bootstrap/ontime", parameters={"as_of": as_of})
    state = getattr(run, "state", None)
    if state is None or not state.is_completed():
        raise SystemExit(f"the bootstrap must complete, its state is {state}: see the worker's log")


if __name__ == "__main__":
    main()
