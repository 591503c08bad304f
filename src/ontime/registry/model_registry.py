"""MLflow: runs, registered versions and the two aliases of the registered model.

Alias ``challenger`` is the version that was trained last, ``champion`` the version to deploy. A
version is a folder of two files (weights and their description), loaded by `TrainedModel.load`:
nothing is unpickled, and no code of the artifact runs.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from ontime.errors import ModelError, RegistryUnavailable
from ontime.models.serialization import DESCRIPTION_FILE, WEIGHTS_FILE, TrainedModel
from ontime.settings import Settings

# MLflow retries for four minutes by default; an unreachable registry must raise within one.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# No artifact may run code when it is loaded.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

MODEL_NAME = "ontime"
EXPERIMENT = "ontime"
WEIGHTS_TAG = "weights_sha256"  # of a version: the artifact store does not vouch for itself
CHAMPION, CHALLENGER = "champion", "challenger"
TEST_PREDICTIONS_FILE, REFERENCE_FILE = "test_predictions.parquet", "reference.parquet"
# No such registered model, no such alias.
MISSING_CODES = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


@dataclass(frozen=True)
class LoggedRun:
    """What MLflow stores of a training run that is needed to reproduce it."""

    version: str
    tags: dict[str, str]
    metrics: dict[str, float]  # the last value of each
    data_digest: str
    weights_sha256: str
    config: dict[str, Any]  # `TrainConfig` as a dict


def connect(settings: Settings) -> None:
    """Point MLflow at the settings' server or, embedded, at SQLite and a folder in ``data_dir``."""
    mlflow.set_tracking_uri(settings.mlflow_url)
    if not settings.mlflow_url.startswith("sqlite"):
        mlflow.set_experiment(EXPERIMENT)
        return
    home = settings.data_dir / "mlflow"
    home.mkdir(parents=True, exist_ok=True)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        mlflow.create_experiment(EXPERIMENT, artifact_location=(home / "artifacts").as_uri())
    mlflow.set_experiment(EXPERIMENT)


def test_predictions(settings: Settings, version: str) -> pd.DataFrame:
    """One row per test instance of a version, with its probability and those of the baselines."""
    return _read_parquet(settings, version, TEST_PREDICTIONS_FILE)


def reference_data(settings: Settings, version: str) -> pd.DataFrame:
    """A sample of a version's training rows with its probabilities: the reference for drift."""
    return _read_parquet(settings, version, REFERENCE_FILE)


def metadata(settings: Settings, version: str) -> dict[str, Any]:
    """A version's metadata: trained_through, threshold, scores, config."""
    return load(settings, version).metadata


def attach(settings: Settings, version: str, paths: list[Path]) -> None:
    """Log files to the run of a version."""
    with wrap_mlflow_errors():
        client = _client(settings)
        run_id = _run_id(settings, version)
        for path in paths:
            client.log_artifact(run_id, str(path), "monitoring")


def logged_run(settings: Settings, run_id: str) -> LoggedRun:
    """A training run by its id.

    Raises:
        LookupError: if the run registered no version.
        RegistryUnavailable: if there is no such run, or the registry does not respond.
    """
    with wrap_mlflow_errors():
        client = _client(settings)
        run = client.get_run(run_id)
        versions = client.search_model_versions(f"name = '{MODEL_NAME}' and run_id = '{run_id}'")
    if not versions:
        raise LookupError(f"a run to reproduce registered a model; run {run_id!r} did not")
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
    """The last value of every metric of the run of a version."""
    with wrap_mlflow_errors():
        return dict(_client(settings).get_run(_run_id(settings, version)).data.metrics)


def table(settings: Settings, version: str, name: str) -> pd.DataFrame:
    """A table that was logged with the run of a version."""
    with wrap_mlflow_errors():
        connect(settings)
        run_id = _run_id(settings, version)
        return mlflow.load_table(f"tables/{name}.json", run_ids=[run_id])


def _read_parquet(settings: Settings, version: str, name: str) -> pd.DataFrame:
    with wrap_mlflow_errors(), tempfile.TemporaryDirectory() as scratch:
        run_id = _run_id(settings, version)
        mlflow.set_tracking_uri(settings.mlflow_url)
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=f"runs:/{run_id}/{name}", dst_path=scratch
        )
        return pd.read_parquet(path)


def resolve(settings: Settings, alias: str) -> str | None:
    """The version of an alias, or None.

    Raises:
        RegistryUnavailable: if the registry does not respond.
    """
    with wrap_mlflow_errors():
        try:
            found = _client(settings).get_model_version_by_alias(MODEL_NAME, alias)
        except MlflowException as error:
            if error.error_code in MISSING_CODES:
                return None
            raise
        return str(found.version)


def set_alias(settings: Settings, alias: str, version: str) -> None:
    """Move an alias to a version."""
    with wrap_mlflow_errors():
        _client(settings).set_registered_model_alias(MODEL_NAME, alias, version)


def drop_aliases(settings: Settings) -> None:
    """Delete both aliases; runs and versions are kept."""
    for alias in (CHAMPION, CHALLENGER):
        if resolve(settings, alias) is not None:
            with wrap_mlflow_errors():
                _client(settings).delete_registered_model_alias(MODEL_NAME, alias)


def tag_version(settings: Settings, version: str, tags: dict[str, str]) -> None:
    """Set tags of a version."""
    with wrap_mlflow_errors():
        client = _client(settings)
        for key, value in tags.items():
            client.set_model_version_tag(MODEL_NAME, version, key, value)


def download(settings: Settings, version: str, to: Path) -> Path:
    """Copy a version's model files into the folder ``to`` and return it.

    Raises:
        ModelError: if the version has the SHA-256 of its weights as a tag, and these have another.
        RegistryUnavailable: if the registry or the artifact store does not respond.
    """
    with wrap_mlflow_errors(), tempfile.TemporaryDirectory() as scratch:
        mlflow.set_tracking_uri(settings.mlflow_url)
        downloaded = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{MODEL_NAME}/{version}", dst_path=scratch
        )
        folder = next(Path(downloaded).rglob(DESCRIPTION_FILE)).parent
        verify(settings, version, folder)
        shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


def verify(settings: Settings, version: str, folder: Path) -> None:
    """Compare the model files in a folder with the version.

    Raises:
        ModelError: if the version has the SHA-256 of its weights as a tag, and these have another.
        RegistryUnavailable: if the registry does not respond.
    """
    with wrap_mlflow_errors():
        tags = _client(settings).get_model_version(MODEL_NAME, version).tags
    found = weights_digest(folder)
    if (expected := tags.get(WEIGHTS_TAG, found)) != found:
        raise ModelError(
            f"the weights of version {version} have the SHA-256 of its tag {WEIGHTS_TAG}, "
            f"{expected[:16]}…; these have {found[:16]}…"
        )


def weights_digest(folder: Path) -> str:
    """The SHA-256 of the weights in a model's folder, as hexadecimal digits."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(settings: Settings, version: str) -> TrainedModel:
    """A version's model, ready to predict."""
    with tempfile.TemporaryDirectory() as scratch:
        return TrainedModel.load(download(settings, version, Path(scratch)))


def _run_id(settings: Settings, version: str) -> str:
    """The run that registered a version."""
    return str(_client(settings).get_model_version(MODEL_NAME, version).run_id)


def _client(settings: Settings) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)


@contextmanager
def wrap_mlflow_errors() -> Iterator[None]:
    """MLflow and its stores raise many types; callers need only one."""
    try:
        yield
    except (MlflowException, OSError, StopIteration) as error:
        raise RegistryUnavailable(
            f"the model registry must respond, and failed: {error!r}. Check ONTIME_MLFLOW_URL"
        ) from error
