"""Reproduce: make a logged run again, from the source on, and say whether it is the same.

    python -m pipelines.reproduce <run id>

Data, features and model are built in a folder of their own that is removed in the end, with the
configuration that MLflow holds. Equal means equal: the digest of the rows, every metric to its last
bit and the SHA-256 of the weights. On other hardware, versions or numbers of threads the last bits
may differ; the table shows those too, and the code's revision (which is not checked out by itself).
"""

import argparse
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from ontime.clock import parse_moment
from ontime.settings import Settings
from pipelines.ingest import ingest
from pipelines.materialize import build_feature_tables
from pipelines.train import judged_training, load_split

if TYPE_CHECKING:
    from ontime.registry import LoggedRun
    from ontime.run_log import Training

# Of the surroundings: they explain a difference, and are none by themselves.
VERSIONS = ("code_revision", "python", "torch", "duckdb", "lightgbm", "numpy", "scikit-learn")
EXPLAINING = (*VERSIONS, "device", "cpu", "bf16", "threads", "processes")
NEEDED = {"as_of", "baselines", "device"}  # tags, without which nothing can be made again
TIMINGS = {"history_seconds"}


@task
def apply_definitions() -> None:
    """Tell Feast about the feature tables; nothing is materialized."""
    from feature_repo.definitions import DEFINITIONS
    from ontime.feature_store import open_feature_store

    open_feature_store(Settings()).apply(DEFINITIONS)


@task(cache_policy=NO_CACHE, persist_result=False)
def train_again(run: "LoggedRun") -> "Training":
    """The run's training on the tables of the settings, judged, and not logged."""
    from ontime.model import ModelConfig
    from ontime.training import TrainConfig

    as_of = parse_moment(run.tags["as_of"])
    split, history = load_split(as_of)
    network = ModelConfig(**run.config["network"])
    config = TrainConfig(**run.config | {"network": network})
    baselines = tuple(run.tags["baselines"].split())
    device = "cpu" if run.tags["device"] == "cpu" else "auto"  # no GPU here: the table says so
    return judged_training(split, history, as_of, config, device, baselines)


def comparison(run: "LoggedRun", training: "Training") -> list[dict[str, object]]:
    """A row for each thing that must be the same, and for what may explain a difference."""
    from ontime.run_log import data_digest, points

    again = {name: value for name, value, _ in points(training)}  # of a curve the last epoch
    pairs: list[tuple[str, object, object]] = [
        (name, run.tags.get(name), training.tags.get(name)) for name in EXPLAINING
    ]
    pairs.append(("data digest", run.data_digest, data_digest(training.data)))
    pairs.append(("judge digest", run.tags.get("judge_digest"), training.tags.get("judge_digest")))
    pairs += [
        (name, run.metrics.get(name), again.get(name))
        for name in sorted((run.metrics.keys() | again.keys()) - TIMINGS)
    ]
    with TemporaryDirectory() as scratch:
        training.model.save(Path(scratch))
        description = json.loads((Path(scratch) / "model.json").read_text())
    pairs.append(("weights sha256", run.weights_sha256, description["weights_sha256"]))
    return [
        {"what": what, "logged": logged, "again": made, "same": logged == made}
        for what, logged, made in pairs
    ]


def reproduced(rows: list[dict[str, object]]) -> bool:
    """Are data, metrics and weights the same?"""
    return all(row["same"] for row in rows if row["what"] not in EXPLAINING)


def tell(run: "LoggedRun", rows: list[dict[str, object]]) -> None:
    print(f"\nversion {run.version}, logged and made again")
    for row in rows:
        logged, again = str(row["logged"]), str(row["again"])
        what = f"  {row['what']:<30}{logged[:40]:<42}"
        print(what + ("same" if row["same"] else f"{again[:40]:<42}DIFFERS"))
    different = [str(row["what"]) for row in rows if not row["same"]]
    if reproduced(rows):
        print("reproduced: data, metrics and weights are the same")
    else:
        print(f"not reproduced; these differ: {', '.join(different)}")


@flow(name="reproduce")
def reproduce(run_id: str) -> bool:
    """Build everything below ``ONTIME_VAR`` again and compare it with the run."""
    from ontime.registry import logged_run

    run = logged_run(Settings(), run_id)
    if missing := sorted(NEEDED - run.tags.keys()):
        raise LookupError(
            f"a run to make again has the tags {sorted(NEEDED)}; version {run.version} was logged "
            f"without {missing}: train again"
        )
    ingest()
    build_feature_tables()
    apply_definitions()
    rows = comparison(run, train_again(run))
    create_table_artifact(
        key="reproduced", table=[row | {"same": str(row["same"])} for row in rows]
    )
    tell(run, rows)
    return reproduced(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_id", help="of the run, as MLflow shows it")
    run_id = parser.parse_args().run_id
    with TemporaryDirectory(prefix="ontime-reproduce-") as scratch:
        # The registry stays; tables and Feast are the scratch folder's, read once at import.
        os.environ |= {"ONTIME_MLFLOW_URL": Settings().mlflow_url, "ONTIME_VAR": scratch}
        for name in ("ONTIME_FEAST_REGISTRY_URL", "ONTIME_REDIS_URL"):
            os.environ.pop(name, None)
        if (places := Settings()).feast_registry_url or places.redis_url:
            sys.exit("reproduce makes features with the embedded Feast: comment Feast's addresses "
                     "ONTIME_FEAST_REGISTRY_URL and ONTIME_REDIS_URL out of .env")  # fmt: skip
        same = reproduce(run_id)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
