"""MLflow: runs, registered versions and the two aliases that say what a version is for.

Registered model `ontime`; alias ``challenger`` for what was just trained, ``champion`` for what
serves. A version is a folder of two files (weights and their description), loaded by
`ontime.model.TrainedModel.load`: nothing is unpickled, and no code of the artifact runs.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ontime.model import TrainedModel
from ontime.settings import Settings

# A registry that is down must be noticed in seconds: MLflow itself retries for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# No artifact may run code when it is loaded.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "ontime"
CHAMPION, CHALLENGER = "champion", "challenger"
EXPERIMENT = "ontime"
JUDGED, REFERENCE = "judged.parquet", "reference.parquet"
REFERENCE_ROWS = 5_000
MISSING_CODES = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


class RegistryUnavailable(RuntimeError):
    """The registry or its artifact store did not answer as it must."""


@dataclass(frozen=True)
class Training:
    """Everything that is worth keeping of one training run."""

    as_of: datetime
    model: TrainedModel
    parameters: dict[str, Any]
    curves: dict[str, list[float]]  # metric -> value an epoch
    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    judged: pd.DataFrame  # a row a judged flight: flight_id, is_late and each model's answer
    figures: dict[str, "Figure"]
    model_card: str
    data: pd.DataFrame  # the examples it was fitted on, for the digest
    tags: dict[str, str] = field(default_factory=dict)


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


def log_training(settings: Settings, training: Training) -> str:
    """Log a run with its model, register the model as challenger; the new version's number."""
    with _translated():
        connect(settings)
        with mlflow.start_run(run_name=f"train {training.as_of:%Y-%m-%d}", tags=training.tags):
            _log_numbers(training)
            _log_data(training)
            for name, table in training.tables.items():
                mlflow.log_table(table, f"tables/{name}.json")
            for name, figure in training.figures.items():
                mlflow.log_figure(figure, f"figures/{name}.png")
            _log_parquet(training.judged, JUDGED)
            _log_parquet(_reference(training), REFERENCE)
            info = _log_model(training)
        client = mlflow.MlflowClient()
        version = str(info.registered_model_version)
        client.update_model_version(NAME, version, description=training.model_card)
        client.set_registered_model_alias(NAME, CHALLENGER, version)
    return version


def _log_numbers(training: Training) -> None:
    mlflow.log_params(training.parameters)
    client, run = mlflow.MlflowClient(), mlflow.active_run()
    assert run is not None
    now = int(pd.Timestamp.now().timestamp() * 1000)
    points = [(name, value, 0) for name, value in training.metrics.items()] + [
        (f"epoch_{name}", value, step)
        for name, values in training.curves.items()
        for step, value in enumerate(values, start=1)
    ]
    # One call: fifty single ones take half a second.
    metrics = [mlflow.entities.Metric(name, value, now, step) for name, value, step in points]
    client.log_batch(run.info.run_id, metrics=metrics)


def _log_data(training: Training) -> None:
    """Which rows it was fitted on. `from_pandas` would walk every value for a schema, six seconds,
    and take its digest from the first 10,000 rows."""
    dataset = MetaDataset(  # type: ignore[abstract]
        CodeDatasetSource(training.tags),
        name=f"flights known on {training.as_of:%Y-%m-%d}",
        digest=data_digest(training.data),
        schema=infer_signature(training.data.head()).inputs,
    )
    mlflow.log_input(dataset, context="training")


def data_digest(rows: pd.DataFrame) -> str:
    """Of every name and value, in order; 32 hexadecimal digits, as MLflow keeps 36 at most."""
    digest = hashlib.sha256(" ".join(rows.columns).encode())
    digest.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:32]


def _reference(training: Training) -> pd.DataFrame:
    spec = training.model.spec
    rows = training.data[[*spec.numeric, *spec.categorical]]
    rows = rows.sample(min(REFERENCE_ROWS, len(rows)), random_state=0)
    return rows.assign(probability_late=training.model.predict(rows))


def _log_parquet(frame: pd.DataFrame, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        frame.to_parquet(Path(scratch) / name)
        mlflow.log_artifact(str(Path(scratch) / name))


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
    with _translated():
        client = _client(settings)
        run_id = _run_id(settings, version)
        for path in paths:
            client.log_artifact(run_id, str(path), "monitoring")


def metrics(settings: Settings, version: str) -> dict[str, float]:
    """The last value of every metric of the run that made a version."""
    with _translated():
        return dict(_client(settings).get_run(_run_id(settings, version)).data.metrics)


def table(settings: Settings, version: str, name: str) -> pd.DataFrame:
    """A table that was logged with the run that made a version."""
    with _translated():
        connect(settings)
        run_id = _run_id(settings, version)
        return mlflow.load_table(f"tables/{name}.json", run_ids=[run_id])


def _read_parquet(settings: Settings, version: str, name: str) -> pd.DataFrame:
    with _translated(), tempfile.TemporaryDirectory() as scratch:
        run_id = _run_id(settings, version)
        mlflow.set_tracking_uri(settings.mlflow_url)
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=f"runs:/{run_id}/{name}", dst_path=scratch
        )
        return pd.read_parquet(path)


def _log_model(training: Training) -> Any:
    spec = training.model.spec
    example = training.data[[*spec.numeric, *spec.categorical]].tail(5).reset_index(drop=True)
    answer = pd.DataFrame({"probability_late": training.model.predict(example)})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        training.model.save(folder)
        (folder / "model_card.md").write_text(training.model_card)
        mlflow.log_text(training.model_card, "model_card.md")
        return mlflow.pyfunc.log_model(
            name="model",
            loader_module="ontime.model",
            data_path=str(folder),
            signature=infer_signature(example, answer),
            input_example=example,
            # Stated, because working them out would import everything for seconds.
            pip_requirements=["torch", "numpy", "pandas", "safetensors"],
            registered_model_name=NAME,
            await_registration_for=60,
        )


def resolve(settings: Settings, alias: str) -> str | None:
    """The version that an alias names now, or None.

    Raises:
        RegistryUnavailable: if the registry does not answer.
    """
    with _translated():
        try:
            found = _client(settings).get_model_version_by_alias(NAME, alias)
        except MlflowException as error:
            if error.error_code in MISSING_CODES:
                return None
            raise
        return str(found.version)


def set_alias(settings: Settings, alias: str, version: str) -> None:
    """Let an alias name a version from now on."""
    with _translated():
        _client(settings).set_registered_model_alias(NAME, alias, version)


def drop_aliases(settings: Settings) -> None:
    """No champion, no challenger; runs and versions stay."""
    for alias in (CHAMPION, CHALLENGER):
        if resolve(settings, alias) is not None:
            _client(settings).delete_registered_model_alias(NAME, alias)


def tag_version(settings: Settings, version: str, tags: dict[str, str]) -> None:
    """Write down on a version what became of it."""
    with _translated():
        client = _client(settings)
        for key, value in tags.items():
            client.set_model_version_tag(NAME, version, key, value)


def download(settings: Settings, version: str, to: Path) -> Path:
    """Copy a version's model files into the folder ``to`` and return it.

    Raises:
        RegistryUnavailable: if the registry or the artifact store does not answer.
    """
    with _translated(), tempfile.TemporaryDirectory() as scratch:
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
def _translated() -> Iterator[None]:
    """MLflow and its stores fail in many types; to a caller they all mean one thing."""
    try:
        yield
    except (MlflowException, OSError, StopIteration) as error:
        raise RegistryUnavailable(
            f"the model registry must answer, and did not: {error!r}. Is ONTIME_MLFLOW_URL right?"
        ) from error
