"""MLflow: runs, registered versions and the two aliases that say what a version is for.

Registered model `ontime`; alias ``challenger`` for what was just trained, ``champion`` for what
serves. A version is a folder of two files (weights and their description), loaded by
`ontime.model.TrainedModel.load`: nothing is unpickled, and no code of the artifact runs.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ontime.model import DESCRIPTION_FILE, TrainedModel
from ontime.settings import Settings

# A registry that is down must be noticed in seconds: MLflow itself retries for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# No artifact may run code when it is loaded.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.exceptions import MlflowException

NAME = "ontime"
CHAMPION, CHALLENGER = "champion", "challenger"
EXPERIMENT = "ontime"
JUDGED, REFERENCE = "judged.parquet", "reference.parquet"
MISSING_CODES = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


@dataclass(frozen=True)
class LoggedRun:
    """What MLflow holds of a training run, as far as it can be made again."""

    version: str  # that it registered
    tags: dict[str, str]
    metrics: dict[str, float]  # the last value of each
    data_digest: str
    weights_sha256: str
    config: dict[str, Any]  # `ontime.training.TrainConfig` as a dict


class RegistryUnavailable(RuntimeError):
    """The registry or its artifact store did not answer as it must."""


def connect(settings: Settings) -> None:
    """Point MLflow at the settings' server or, embedded, at SQLite and a folder below ``var``."""
    mlflow.set_tracking_uri(settings.mlflow_url)
    if not settings.mlflow_url.startswith("sqlite"):
        mlflow.set_experiment(EXPERIMENT)
        return
    home = settings.var / "mlflow"
    home.mkdir(parents=True, exist_ok=True)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        mlflow.create_experiment(EXPERIMENT, artifact_location=(home / "artifacts").as_uri())
    mlflow.set_experiment(EXPERIMENT)


def judged(settings: Settings, version: str) -> pd.DataFrame:
    """What the baselines and the network answered when the version was judged, a row a flight."""
    return _read_parquet(settings, version, JUDGED)


def reference(settings: Settings, version: str) -> pd.DataFrame:
    """Flights that the version was trained on, with its answers: what drift is measured from."""
    return _read_parquet(settings, version, REFERENCE)


def describe(settings: Settings, version: str) -> dict[str, Any]:
    """What is known of a version: trained_through, scores, threshold, config."""
    return load(settings, version).metadata


def attach(settings: Settings, version: str, paths: list[Path]) -> None:
    """Log files to the run that made a version."""
    with translated():
        client = _client(settings)
        run_id = _run_id(settings, version)
        for path in paths:
            client.log_artifact(run_id, str(path), "monitoring")


def logged_run(settings: Settings, run_id: str) -> LoggedRun:
    """A training run by its id.

    Raises:
        LookupError: if the run registered no version.
        RegistryUnavailable: if there is no such run, or the registry does not answer.
    """
    with translated():
        client = _client(settings)
        run = client.get_run(run_id)
        versions = client.search_model_versions(f"name = '{NAME}' and run_id = '{run_id}'")
    if not versions:
        raise LookupError(f"a run to make again registered a model; run {run_id!r} has none")
    datasets = run.inputs.dataset_inputs if run.inputs else []
    version = str(versions[0].version)
    with tempfile.TemporaryDirectory() as scratch:
        folder = download(settings, version, Path(scratch))
        description = json.loads((folder / DESCRIPTION_FILE).read_text())
    return LoggedRun(
        version=version,
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
        data_digest=datasets[0].dataset.digest,
        weights_sha256=description["weights_sha256"],
        config=description["metadata"]["config"],
    )


def metrics(settings: Settings, version: str) -> dict[str, float]:
    """The last value of every metric of the run that made a version."""
    with translated():
        return dict(_client(settings).get_run(_run_id(settings, version)).data.metrics)


def table(settings: Settings, version: str, name: str) -> pd.DataFrame:
    """A table that was logged with the run that made a version."""
    with translated():
        connect(settings)
        run_id = _run_id(settings, version)
        return mlflow.load_table(f"tables/{name}.json", run_ids=[run_id])


def _read_parquet(settings: Settings, version: str, name: str) -> pd.DataFrame:
    with translated(), tempfile.TemporaryDirectory() as scratch:
        run_id = _run_id(settings, version)
        mlflow.set_tracking_uri(settings.mlflow_url)
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=f"runs:/{run_id}/{name}", dst_path=scratch
        )
        return pd.read_parquet(path)


def resolve(settings: Settings, alias: str) -> str | None:
    """The version that an alias names now, or None.

    Raises:
        RegistryUnavailable: if the registry does not answer.
    """
    with translated():
        try:
            found = _client(settings).get_model_version_by_alias(NAME, alias)
        except MlflowException as error:
            if error.error_code in MISSING_CODES:
                return None
            raise
        return str(found.version)


def set_alias(settings: Settings, alias: str, version: str) -> None:
    """Let an alias name a version from now on."""
    with translated():
        _client(settings).set_registered_model_alias(NAME, alias, version)


def drop_aliases(settings: Settings) -> None:
    """No champion, no challenger; runs and versions stay."""
    for alias in (CHAMPION, CHALLENGER):
        if resolve(settings, alias) is not None:
            _client(settings).delete_registered_model_alias(NAME, alias)


def tag_version(settings: Settings, version: str, tags: dict[str, str]) -> None:
    """Write down on a version what became of it."""
    with translated():
        client = _client(settings)
        for key, value in tags.items():
            client.set_model_version_tag(NAME, version, key, value)


def download(settings: Settings, version: str, to: Path) -> Path:
    """Copy a version's model files into the folder ``to`` and return it.

    Raises:
        RegistryUnavailable: if the registry or the artifact store does not answer.
    """
    with translated(), tempfile.TemporaryDirectory() as scratch:
        mlflow.set_tracking_uri(settings.mlflow_url)
        downloaded = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{NAME}/{version}", dst_path=scratch
        )
        folder = next(Path(downloaded).rglob("model.json")).parent
        shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


def load(settings: Settings, version: str) -> TrainedModel:
    """A version's model, ready to predict."""
    with tempfile.TemporaryDirectory() as scratch:
        return TrainedModel.load(download(settings, version, Path(scratch)))


def _run_id(settings: Settings, version: str) -> str:
    """The run that made a version."""
    return str(_client(settings).get_model_version(NAME, version).run_id)


def _client(settings: Settings) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)


@contextmanager
def translated() -> Iterator[None]:
    """MLflow and its stores fail in many types; to a caller they all mean one thing."""
    try:
        yield
    except (MlflowException, OSError, StopIteration) as error:
        raise RegistryUnavailable(
            f"the model registry must answer, and did not: {error!r}. Is ONTIME_MLFLOW_URL right?"
        ) from error
