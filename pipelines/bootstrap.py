"""Bootstrap: deploy the flows to the Prefect server, and have its worker make the first champion.

    python -m pipelines.bootstrap --as-of 2013-05-01

Run when the stack comes up, every time: deploying again changes nothing, and where a champion is
there is nothing left to make. One flow, because a run of its own for each step would import
Prefect, Feast and torch four times.
"""

import argparse
import os
import subprocess
import sys
from datetime import datetime

from prefect import flow
from prefect.deployments import run_deployment

from ontime.clock import parse_moment
from ontime.settings import ROOT, Settings
from pipelines.ingest import ingest
from pipelines.materialize import materialize
from pipelines.promote import promote
from pipelines.train import QUICK_BASELINES, train

AS_OF = parse_moment("2013-05-01")  # where the replay starts if nothing else is said


# Tried again in here: to `up --wait` a container that ended with an error has failed for good.
@flow(name="bootstrap", retries=2, retry_delay_seconds=5)
def bootstrap(as_of: datetime) -> str:
    """Tables, features, online store and a first champion; the version that serves.

    Raises:
        RuntimeError: if the gate refuses the first model.
    """
    from ontime import registry

    if (champion := registry.resolve(Settings(), registry.CHAMPION)) is not None:
        print(f"version {champion} is champion: nothing to do")
        return champion
    ingest()
    materialize(as_of)
    train(as_of, baselines=QUICK_BASELINES)
    verdict = promote(as_of)
    if not verdict["promote"]:
        raise RuntimeError(f"the first model may not serve: {'; '.join(verdict['reasons'])}")
    return str(verdict["challenger"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_moment, default=AS_OF)
    as_of = parser.parse_args().as_of
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env=os.environ | {"PWD": str(ROOT)},  # prefect.yaml asks for it, and only a shell sets it
        check=True,
    )
    run = run_deployment("bootstrap/ontime", parameters={"as_of": as_of})
    state = getattr(run, "state", None)
    if state is None or not state.is_completed():
        raise SystemExit(f"the bootstrap must complete, and did not: {state}. See the worker's log")


if __name__ == "__main__":
    main()
