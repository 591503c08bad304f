"""Drift: Evidently's distance of every input and of the prediction to the training window.

Drift explains and does not decide: the retrain policy acts on labelled performance. The only module
that imports Evidently, inside its functions: the import takes 4 s and 290 MB.

- Methods are pinned by the kind of column. Evidently's default changes from a p-value to a distance
  with the size of the reference, which would change the meaning of a score.
- Both sides are sampled to the same size, so that a score does not depend on the traffic.
- Evidently drops missing values before it compares. The share of missing values is reported beside
  every score, so that a feed without data shows.
- The HTML report has the prediction and the ten columns with the highest scores. With all columns
  it took longer than the scores and had 8 MB.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ontime.features.spec import FeatureSpec
from ontime.problem import MIN_DRIFT_INSTANCES

if TYPE_CHECKING:
    from evidently.core.report import Snapshot

PROJECT = "ontime"
PREDICTION = "probability"
SAMPLE_ROWS = 5_000  # the distances of 5,000 and of 29,000 rows agree
SEED = 0
# Distances: normed Wasserstein in standard deviations of the reference; Jensen-Shannon from 0
# (equal) to 0.83 (disjoint). From 0.1 on, the difference is visible in the histograms.
NUMERIC, CATEGORICAL = "wasserstein", "jensenshannon"
THRESHOLD = 0.1
REPORT_COLUMNS = 10


class DriftError(ValueError):
    """The two frames cannot be compared; the message states rule, value and fix."""


@dataclass(frozen=True)
class ColumnDrift:
    """`drifted` is score >= threshold; shares of missing values are those before sampling."""

    method: str
    score: float
    threshold: float
    drifted: bool
    missing_reference: float
    missing_current: float


@dataclass(frozen=True)
class Drift:
    """Inputs and prediction against the training window; `dataclasses.asdict` gives JSON."""

    share_drifted: float  # of `columns`, without the prediction
    columns: dict[str, ColumnDrift]  # by score, highest first
    prediction: ColumnDrift
    left_out: dict[str, str]  # column -> reason
    rows_reference: int
    rows_current: int
    sampled_reference: int
    sampled_current: int


def drift_report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    spec: FeatureSpec,
    html_path: Path | None = None,
    workspace: Path | None = None,
) -> Drift:
    """Compare served rows with the champion's training window.

    Args:
        reference, current: every input of `spec` and the column probability.
        html_path: where the HTML report is written; None: nowhere.
        workspace: folder of Evidently's UI, to which the same report is added; None: nowhere.

    Raises:
        DriftError: if a side has too few rows or lacks a column, or no input can be compared.
    """
    _check(reference, current, spec)
    inputs = [*spec.tabular, *spec.categorical]
    left_out = {
        name: reason for name in inputs if (reason := _unusable(reference[name], current[name]))
    }
    methods = {
        name: NUMERIC if name in spec.tabular else CATEGORICAL
        for name in inputs
        if name not in left_out
    }
    if not methods:
        raise DriftError(f"at least one input must be comparable; left out: {left_out}")
    methods[PREDICTION] = CATEGORICAL
    samples = [_sample(frame, methods) for frame in (current, reference)]
    found = {
        name: _column(result, reference[name], current[name])
        for name, result in _scores(samples, methods).items()
    }
    prediction = found.pop(PREDICTION)
    columns = dict(sorted(found.items(), key=lambda item: -item[1].score))
    if html_path is not None:
        shown = {*[*columns][:REPORT_COLUMNS], PREDICTION}
        top = {name: method for name, method in methods.items() if name in shown}
        _write_html(samples, top, html_path, workspace)
    return Drift(
        share_drifted=sum(column.drifted for column in columns.values()) / len(columns),
        columns=columns,
        prediction=prediction,
        left_out=left_out,
        rows_reference=len(reference),
        rows_current=len(current),
        sampled_reference=len(samples[1]),
        sampled_current=len(samples[0]),
    )


def _check(reference: pd.DataFrame, current: pd.DataFrame, spec: FeatureSpec) -> None:
    for side, frame in (("current", current), ("reference", reference)):
        if len(frame) < MIN_DRIFT_INSTANCES:
            raise DriftError(
                f"drift needs at least {MIN_DRIFT_INSTANCES} {side} rows, got {len(frame)}: "
                "compare a longer period"
            )
        if missing := sorted({*spec.tabular, *spec.categorical, PREDICTION} - {*frame.columns}):
            raise DriftError(f"{side} must have every input and {PREDICTION}; missing: {missing}")


def _unusable(reference: pd.Series, current: pd.Series) -> str | None:
    """Why a column cannot be compared. A column that is constant in current only is compared."""
    if reference.isna().all() or current.isna().all():
        return "all missing in " + ("the reference" if reference.isna().all() else "current rows")
    if reference.nunique() == 1:
        return "constant in the reference"
    return None


def _sample(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    rows = frame[list(columns)]
    rows = rows.sample(SAMPLE_ROWS, random_state=SEED) if len(rows) > SAMPLE_ROWS else rows
    return rows.reset_index(drop=True)


def _column(result: dict[str, Any], reference: pd.Series, current: pd.Series) -> ColumnDrift:
    return ColumnDrift(
        **result,
        drifted=result["score"] >= result["threshold"],
        missing_reference=float(reference.isna().mean()),
        missing_current=float(current.isna().mean()),
    )


def _scores(samples: list[pd.DataFrame], methods: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Method, score and threshold per column, as Evidently reports them."""
    with _evidently_warnings_ignored():
        from evidently.metrics import ValueDrift

        metrics = [
            ValueDrift(column=name, method=method, threshold=THRESHOLD)
            for name, method in methods.items()
        ]
        results = _run(metrics, samples, methods).dict()["metrics"]
    return {
        result["config"]["column"]: {
            "method": result["config"]["method"],
            "score": float(result["value"]),
            "threshold": result["config"]["threshold"],
        }
        for result in results
        if "column" in result["config"]
    }


def _write_html(
    samples: list[pd.DataFrame], methods: dict[str, str], path: Path, workspace: Path | None
) -> None:
    with _evidently_warnings_ignored():
        from evidently.presets import DataDriftPreset
        from evidently.ui.workspace import Workspace

        preset = DataDriftPreset(
            columns=list(methods),
            per_column_method=methods,
            per_column_threshold=dict.fromkeys(methods, THRESHOLD),
        )
        run = _run([preset], samples, methods)
        path.parent.mkdir(parents=True, exist_ok=True)
        run.save_html(str(path))
        if workspace is not None:
            ui = Workspace.create(str(workspace))
            found = ui.search_project(PROJECT)
            project = found[0] if found else ui.create_project(PROJECT)
            ui.add_run(project.id, run)


def _run(metrics: list[Any], samples: list[pd.DataFrame], methods: dict[str, str]) -> "Snapshot":
    """Run an Evidently report on the samples, current first."""
    from evidently import DataDefinition, Dataset, Report

    categorical = [name for name in methods if methods[name] == CATEGORICAL and name != PREDICTION]
    numeric = [name for name in methods if name not in categorical]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    datasets = [
        Dataset.from_pandas(sample[list(methods)], data_definition=definition) for sample in samples
    ]
    return Report(metrics).run(*datasets)


@contextmanager
def _evidently_warnings_ignored() -> Iterator[None]:
    """Evidently's import uses names deprecated by NumPy and Litestar, and its HTML report divides
    by the spread of every column, also of a constant one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)
        yield
