"""One training run: fit the network and its baselines, evaluate them, describe the environment."""

import platform
import shutil
import subprocess
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version as installed

import pandas as pd
import torch

from ontime.data.splits import Split
from ontime.evaluation import plots
from ontime.evaluation.comparison import compare_models, fit_baselines
from ontime.evaluation.importance import group_importance
from ontime.evaluation.metrics import (
    decision_costs,
    expected_cost_threshold,
    lowest_cost_threshold,
)
from ontime.evaluation.model_card import model_card
from ontime.evaluation.slices import slice_table
from ontime.features.historical import REQUEST_FIELDS
from ontime.models.distillation import distill
from ontime.models.distributed import rank_and_size
from ontime.models.trainer import TrainConfig, bf16_is_fast, pick_device
from ontime.problem import COST_FALSE_ALARM, COST_MISS, FEATURE_SPEC, SLICES
from ontime.registry.run_logger import TrainingResult, data_digest
from ontime.settings import ROOT, Settings

IMPORTANCE_ROWS = 2_000  # a sample of the test rows; takes half a second


def train_and_evaluate(
    split: Split,
    history: dict[str, float],
    as_of: datetime,
    config: TrainConfig,
    device: str,
    baselines: tuple[str, ...],
    code_revision: str,
) -> TrainingResult:
    """Fit on the train and validation rows, evaluate on the test rows; nothing is logged yet.

    Without test rows the scores are the teachers', cross-validated by day on the training rows. The
    network itself is then evaluated in shadow, before it may be promoted.

    Args:
        history: metrics of the historical join, logged with the run.
        baselines: names in `ontime.models.baselines.BASELINES`.
    """
    data, test = split.train_and_validation, split.test
    model, teachers, epochs = distill(data, FEATURE_SPEC, config, device)
    if has_test := not test.empty:
        predictions = {"network": model.predict(test), "teachers": teachers.predict(test)}
        predictions |= fit_baselines(split, baselines)
    else:
        test, predictions = data, {"teachers": teachers.out_of_fold}
    main = next(iter(predictions))
    models, differences = compare_models(test, predictions)
    labels = test.label.to_numpy(dtype=bool)
    threshold = expected_cost_threshold(COST_FALSE_ALARM, COST_MISS)
    chosen = lowest_cost_threshold(
        data.label.to_numpy(dtype=bool), teachers.out_of_fold, COST_FALSE_ALARM, COST_MISS
    )

    def cost_per_1000(threshold: float) -> float:
        costs = decision_costs(labels, predictions[main], threshold, COST_FALSE_ALARM, COST_MISS)
        return 1000 * float(costs.mean())

    costs = {
        "cross_validated_threshold": chosen,
        "cost_per_1000": cost_per_1000(threshold),
        "cost_per_1000_at_cross_validated_threshold": cost_per_1000(chosen),
    }
    sample = test.sample(min(IMPORTANCE_ROWS, len(test)), random_state=0)
    tables = {
        "models": models,
        "differences": differences,
        "slices": slice_table(test, labels, predictions[main], SLICES),
        "importance": group_importance(model, sample),
    }
    model.metadata |= {
        "trained_through": (test.event_timestamp.min() if has_test else as_of).isoformat(),
        "threshold": threshold,
        "scores": models.set_index("model").loc[main].to_dict(),
    }
    return TrainingResult(
        as_of=as_of,
        model=model,
        parameters=asdict(config)
        | {f"rows_{name}": len(rows) for name, rows in split.parts.items()},
        curves={"train_loss": [epoch.train_loss for epoch in epochs]},
        metrics=_flat_metrics(models)
        | {"teachers_rounds": teachers.rounds, "teachers_out_of_fold_log_loss": teachers.log_loss}
        | costs
        | history,
        tables=tables,
        test_predictions=test[["instance_id", "event_timestamp", *REQUEST_FIELDS, "label"]].assign(
            **predictions
        ),
        figures={
            "calibration": plots.calibration(labels, predictions),
            "roc_and_precision_recall": plots.roc_and_precision_recall(labels, predictions),
            "learning_curve": plots.learning_curve(epochs),
        },
        model_card=model_card(model, split, tables, costs),
        data=data,
        tags={
            "as_of": as_of.isoformat(),
            "holdout": str(has_test),
            "baselines": " ".join(baselines),
            "test_digest": data_digest(test),
            "code_revision": code_revision,
        }
        | environment_tags(device),
    )


def _flat_metrics(models: pd.DataFrame) -> dict[str, float]:
    """The network's scores under their own names, those of the others as <model>_<score>."""
    return {
        name if row["model"] == "network" else f"{row['model']}_{name}": value
        for row in models.to_dict("records")
        for name, value in row.items()
        if name != "model"
    }


def environment_tags(device: str) -> dict[str, str]:
    """What determines the last bits of weights and metrics, beside data, code and configuration."""
    torch_device = pick_device(device)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: installed(name) for name in ("duckdb", "lightgbm", "numpy", "scikit-learn")},
        "device": torch_device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16": str(bf16_is_fast(torch_device)),
        "threads": str(torch.get_num_threads()),
        "processes": str(rank_and_size()[1]),
    }


def code_revision(settings: Settings) -> str:
    """The checked-out commit, with ``+`` if files differ from it.

    Without git, as in the image, the revision in the settings.
    """
    if shutil.which("git") is not None:
        describe = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
        found = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    return settings.code_revision
