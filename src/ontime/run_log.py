"""A training run, written to MLflow: everything that is worth keeping of it, and its model.

What a run holds is enough to make it again (`pipelines/reproduce.py`): the digest of its rows, the
configuration, every metric, the code's revision and the SHA-256 of the weights.
"""

import hashlib
import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.models import infer_signature

from ontime.model import TrainedModel
from ontime.registry import CHALLENGER, JUDGED, NAME, REFERENCE, connect, translated
from ontime.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE_ROWS = 5_000


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


def log_training(settings: Settings, training: Training) -> str:
    """Log a run with its model, register the model as challenger; the new version's number."""
    with translated():
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


def points(training: Training) -> list[tuple[str, float, int]]:
    """Every metric of a training with its step."""
    return [(name, value, 0) for name, value in training.metrics.items()] + [
        (f"epoch_{name}", value, step)
        for name, values in training.curves.items()
        for step, value in enumerate(values, start=1)
    ]


def _log_numbers(training: Training) -> None:
    mlflow.log_params(training.parameters)
    client, run = mlflow.MlflowClient(), mlflow.active_run()
    assert run is not None
    now = int(pd.Timestamp.now().timestamp() * 1000)
    # One call: fifty single ones take half a second.
    metrics = [
        mlflow.entities.Metric(name, value, now, step) for name, value, step in points(training)
    ]
    client.log_batch(run.info.run_id, metrics=metrics)


def _log_data(training: Training) -> None:
    """Which rows it was fitted on. `from_pandas` would walk every value for a schema, six seconds,
    and take its digest from the first 10,000 rows."""
    dataset = MetaDataset(  # type: ignore[abstract]
        CodeDatasetSource(training.tags),
        name=f"flights known on {training.as_of:%Y-%m-%d}",
        digest=data_digest(training.data),
        schema=infer_signature(_inputs(training).head()).inputs,
    )
    mlflow.log_input(dataset, context="training")


def data_digest(rows: pd.DataFrame) -> str:
    """Of every name and value, in order; 32 hexadecimal digits, as MLflow keeps 36 at most."""
    digest = hashlib.sha256(" ".join(rows.columns).encode())
    digest.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:32]


def _inputs(training: Training) -> pd.DataFrame:
    spec = training.model.spec
    return training.data[[*spec.numeric, *spec.categorical]]


def _reference(training: Training) -> pd.DataFrame:
    rows = _inputs(training)
    rows = rows.sample(min(REFERENCE_ROWS, len(rows)), random_state=0)
    return rows.assign(probability_late=training.model.predict(rows))


def _log_parquet(frame: pd.DataFrame, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        frame.to_parquet(Path(scratch) / name)
        mlflow.log_artifact(str(Path(scratch) / name))


def _log_model(training: Training) -> Any:
    example = _inputs(training).tail(5).reset_index(drop=True)
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
