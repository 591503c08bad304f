"""Logging of a training run to MLflow: numbers, tables, figures, data digest and the model.

The run holds what is needed to reproduce it (`experiments/reproduce.py`): the digest of its rows,
the configuration, every metric, the code revision and the SHA-256 of the weights.
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

from ontime.models.serialization import TrainedModel
from ontime.problem import INSTANCES
from ontime.registry.model_registry import (
    CHALLENGER,
    MODEL_NAME,
    REFERENCE_FILE,
    TEST_PREDICTIONS_FILE,
    WEIGHTS_TAG,
    connect,
    weights_digest,
    wrap_mlflow_errors,
)
from ontime.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE_ROWS = 5_000
MAX_DESCRIPTION = 5_000  # characters


@dataclass(frozen=True)
class TrainingResult:
    """Everything that is logged of one training run."""

    as_of: datetime
    model: TrainedModel
    parameters: dict[str, Any]
    curves: dict[str, list[float]]  # metric -> one value per epoch
    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    test_predictions: pd.DataFrame  # one row per test row: instance_id, label, each model's column
    figures: dict[str, "Figure"]
    model_card: str
    data: pd.DataFrame  # the rows that the model was fitted on
    tags: dict[str, str] = field(default_factory=dict)


def describe(card: str) -> str:
    """The model card as a description in the registry: cut at a line if it is too long.

    MLflow's column has 5,000 characters. SQLite accepts more, Postgres rejects the version.
    """
    if len(card) <= MAX_DESCRIPTION:
        return card
    rest = "\n\nThe rest is in model_card.md, an artifact of the run."
    return card[: card.rindex("\n", 0, MAX_DESCRIPTION - len(rest))] + rest


def log_training(settings: Settings, result: TrainingResult) -> str:
    """Log a run, register its model as challenger, and return the new version."""
    with wrap_mlflow_errors():
        connect(settings)
        with mlflow.start_run(run_name=f"train {result.as_of:%Y-%m-%d}", tags=result.tags):
            _log_numbers(result)
            _log_data(result)
            for name, table in result.tables.items():
                mlflow.log_table(table, f"tables/{name}.json")
            for name, figure in result.figures.items():
                mlflow.log_figure(figure, f"figures/{name}.png")
            _log_parquet(result.test_predictions, TEST_PREDICTIONS_FILE)
            _log_parquet(_reference(result), REFERENCE_FILE)
            info = _log_model(result)
        client = mlflow.MlflowClient()
        version = str(info.registered_model_version)
        client.update_model_version(MODEL_NAME, version, description=describe(result.model_card))
        with tempfile.TemporaryDirectory() as scratch:  # saving again gives the same bytes
            result.model.save(Path(scratch))
            digest = weights_digest(Path(scratch))
        client.set_model_version_tag(MODEL_NAME, version, WEIGHTS_TAG, digest)
        client.set_registered_model_alias(MODEL_NAME, CHALLENGER, version)
    return version


def metric_points(result: TrainingResult) -> list[tuple[str, float, int]]:
    """Every metric of a run as (name, value, step)."""
    return [(name, value, 0) for name, value in result.metrics.items()] + [
        (f"epoch_{name}", value, step)
        for name, values in result.curves.items()
        for step, value in enumerate(values, start=1)
    ]


def data_digest(rows: pd.DataFrame) -> str:
    """A digest of every column name and value in order; 32 hex digits (MLflow's limit is 36)."""
    digest = hashlib.sha256(" ".join(rows.columns).encode())
    digest.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:32]


def _log_numbers(result: TrainingResult) -> None:
    mlflow.log_params(result.parameters)
    client, run = mlflow.MlflowClient(), mlflow.active_run()
    assert run is not None
    now = int(pd.Timestamp.now().timestamp() * 1000)
    metrics = [
        mlflow.entities.Metric(name, value, now, step)
        for name, value, step in metric_points(result)
    ]
    client.log_batch(run.info.run_id, metrics=metrics)  # fifty single calls take 0.5 s


def _log_data(result: TrainingResult) -> None:
    # `mlflow.data.from_pandas` infers a schema from every value (6 s) and takes its digest from
    # the first 10,000 rows only.
    dataset = MetaDataset(  # type: ignore[abstract]
        CodeDatasetSource(result.tags),
        name=f"{INSTANCES} known on {result.as_of:%Y-%m-%d}",
        digest=data_digest(result.data),
        schema=infer_signature(_inputs(result).head()).inputs,
    )
    mlflow.log_input(dataset, context="training")


def _inputs(result: TrainingResult) -> pd.DataFrame:
    spec = result.model.spec
    return result.data[[*spec.numeric, *spec.categorical]]


def _reference(result: TrainingResult) -> pd.DataFrame:
    rows = _inputs(result)
    rows = rows.sample(min(REFERENCE_ROWS, len(rows)), random_state=0)
    return rows.assign(probability=result.model.predict(rows))


def _log_parquet(frame: pd.DataFrame, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        frame.to_parquet(Path(scratch) / name)
        mlflow.log_artifact(str(Path(scratch) / name))


def _log_model(result: TrainingResult) -> Any:
    example = _inputs(result).tail(5).reset_index(drop=True)
    output = pd.DataFrame({"probability": result.model.predict(example)})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        result.model.save(folder)
        (folder / "model_card.md").write_text(result.model_card)
        mlflow.log_text(result.model_card, "model_card.md")
        return mlflow.pyfunc.log_model(
            name="model",
            loader_module="ontime.models.serialization",
            data_path=str(folder),
            signature=infer_signature(example, output),
            input_example=example,
            # Stated, because inferring them imports every package and takes seconds.
            pip_requirements=["torch", "numpy", "pandas", "safetensors"],
            registered_model_name=MODEL_NAME,
            await_registration_for=60,
        )
