"""Reproduce a logged training run from the source on, and compare the two.

    python -m experiments.reproduce RUN_ID

Data, features and model are built in a temporary folder with the configuration that MLflow holds.
Equal means equal: the digest of the rows, every metric to its last bit and the SHA-256 of the
weights. Other hardware, versions or numbers of threads may change the last bits; the table shows
them, and the code revision, which is not checked out.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from feature_repo.definitions import definitions
from ontime.data.timestamps import parse_utc
from ontime.features.feast_config import open_feature_store
from ontime.models.network import ModelConfig
from ontime.models.trainer import TrainConfig
from ontime.registry.model_registry import LoggedRun, logged_run
from ontime.registry.run_logger import TrainingResult, data_digest, metric_points
from ontime.registry.training_run import code_revision, train_and_evaluate
from ontime.settings import Settings
from pipelines.build_features import build_feature_tables
from pipelines.ingest import write_source_tables
from pipelines.train import load_split

# Tags that explain a difference and are none by themselves.
VERSIONS = ("code_revision", "python", "torch", "duckdb", "lightgbm", "numpy", "scikit-learn")
EXPLAINING = (*VERSIONS, "device", "cpu", "bf16", "threads", "processes")
# Tags without which a run cannot be reproduced.
NEEDED = {"as_of", "baselines", "device", "holdout"}
TIMINGS = {"history_seconds"}


@task(cache_policy=NO_CACHE, persist_result=False)
def train_again(settings: Settings, run: LoggedRun) -> TrainingResult:
    """The run's training on the tables of the settings; it is not logged."""
    as_of = parse_utc(run.tags["as_of"])
    split, history = load_split(settings, as_of, run.tags["holdout"] == "True")
    network = ModelConfig(**run.config["network"])
    config = TrainConfig(**run.config | {"network": network})
    baselines = tuple(run.tags["baselines"].split())
    device = "cpu" if run.tags["device"] == "cpu" else "auto"  # without a GPU the table shows it
    revision = code_revision(settings)
    return train_and_evaluate(split, history, as_of, config, device, baselines, revision)


def comparison(run: LoggedRun, again: TrainingResult) -> list[dict[str, object]]:
    """One row for each value that must be the same, and for each that may explain a difference."""
    metrics = {name: value for name, value, _ in metric_points(again)}  # of a curve the last epoch
    with TemporaryDirectory() as scratch:
        again.model.save(Path(scratch))
        weights = json.loads((Path(scratch) / "model.json").read_text())["weights_sha256"]
    pairs: list[tuple[str, object, object]] = [
        *((name, run.tags.get(name), again.tags.get(name)) for name in EXPLAINING),
        ("data digest", run.data_digest, data_digest(again.data)),
        ("test digest", run.tags.get("test_digest"), again.tags.get("test_digest")),
        *(
            (name, run.metrics.get(name), metrics.get(name))
            for name in sorted((run.metrics.keys() | metrics.keys()) - TIMINGS)
        ),
        ("weights sha256", run.weights_sha256, weights),
    ]
    return [
        {"what": what, "logged": logged, "again": made, "same": logged == made}
        for what, logged, made in pairs
    ]


def reproduced(rows: list[dict[str, object]]) -> bool:
    """True if data, metrics and weights are the same."""
    return all(row["same"] for row in rows if row["what"] not in EXPLAINING)


def print_comparison(run: LoggedRun, rows: list[dict[str, object]]) -> None:
    print(f"\nversion {run.version}, logged and reproduced")
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
    """Build data, features and model of a run again; True if they are the same.

    Raises:
        LookupError: if the run lacks the tags that say how it was made.
    """
    settings = Settings()
    run = logged_run(settings, run_id)
    if missing := sorted(NEEDED - run.tags.keys()):
        raise LookupError(
            f"a run to reproduce needs the tags {sorted(NEEDED)}; version {run.version} was logged "
            f"without {missing}: train again"
        )
    with TemporaryDirectory(prefix="ontime-reproduce-") as scratch:
        embedded = {"feast_registry_url": "", "redis_url": "", "tables_url": ""}
        local = settings.model_copy(update=embedded | {"data_dir": Path(scratch).resolve()})
        write_source_tables(local)
        build_feature_tables(local)
        open_feature_store(local).apply(definitions(local.features_dir))
        rows = comparison(run, train_again(local, run))
    table = [row | {"same": str(row["same"])} for row in rows]
    create_table_artifact(key="reproduced", table=table)
    print_comparison(run, rows)
    return reproduced(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_id", help="of the run, as MLflow shows it")
    sys.exit(0 if reproduce(parser.parse_args().run_id) else 1)


if __name__ == "__main__":
    main()
