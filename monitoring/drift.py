"""What drifted: Evidently's distance of every input and of the prediction to the training window.

Drift explains, it never decides: on this data more than half of the columns drift in every week
(`decision.py` acts on labelled performance). The only module that imports Evidently, and only when
called: the import takes 4 s and 290 MB.

Notable decisions
- The method is pinned by kind of column. Evidently's own choice flips from a p-value to a distance
  with the size of the reference, and a score would change its meaning.
- Both sides are sampled to the same size, so that a score does not depend on traffic.
- Evidently drops missing values before it compares: a feed that went silent would not show. The
  share missing is reported beside every score.
- The page to look at shows the prediction and the ten columns that drifted most: with all of them
  it took longer than the scores, and had 8 MB.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ontime.model import FeatureSpec

if TYPE_CHECKING:
    from evidently import Dataset
    from evidently.core.report import Snapshot

PROJECT = "ontime"
PREDICTION = "probability_late"
SAMPLE_ROWS = 5_000  # the distances of 5,000 and 29,000 rows agree; the time does not
# With 500 rows of one and the same distribution a score is about .04; with 100 it is at the limit.
MIN_CURRENT_ROWS = 500
SEED = 0
# Distances: normed Wasserstein in standard deviations of the reference, Jensen-Shannon from 0
# (alike) to .83 (apart). At .1 a person sees the difference in the histograms.
NUMBER, CATEGORY, PROBABILITY = "wasserstein", "jensenshannon", "jensenshannon"
THRESHOLD = 0.1
PAGE_COLUMNS = 10


class DriftError(ValueError):
    """The two frames cannot be compared."""


@dataclass(frozen=True)
class ColumnDrift:
    """`drifted` is score >= threshold. The shares are those of missing values, before sampling."""

    method: str
    score: float
    threshold: float
    drifted: bool
    missing_reference: float
    missing_current: float


@dataclass(frozen=True)
class Drift:
    """Inputs and prediction against the training window; `dataclasses.asdict` gives JSON."""

    share_drifted: float  # of `columns`, the prediction not among them
    columns: dict[str, ColumnDrift]  # highest score first
    prediction: ColumnDrift
    left_out: dict[str, str]  # column: reason
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
        reference, current: every column of `spec` and `probability_late`.
        html_path: where to write the page to look at; None: no page.
        workspace: where Evidently's own UI finds the same page, beside those before; None: nowhere.
    """
    _check(reference, current, spec)
    inputs = [*spec.numeric, *spec.categorical]
    left_out = {
        name: reason for name in inputs if (reason := _unusable(reference[name], current[name]))
    }
    kept = [name for name in inputs if name not in left_out]
    if not kept:
        raise DriftError(f"at least one input can be compared; left out: {left_out}")
    numeric = [name for name in kept if name in spec.numeric]
    categorical = [name for name in kept if name in spec.categorical]
    samples = _sampled(reference, kept), _sampled(current, kept)
    found = _evidently_scores(*samples, numeric, categorical)
    if html_path is not None:
        most = sorted(kept, key=lambda name: -found[name]["score"])[:PAGE_COLUMNS]
        shown = [name for name in numeric if name in most]
        others = [name for name in categorical if name in most]
        _write_page(*samples, shown, others, html_path, workspace)
    columns = {
        name: _column(found[name], reference[name], current[name])
        for name in sorted(kept, key=lambda name: -found[name]["score"])
    }
    return Drift(
        share_drifted=sum(column.drifted for column in columns.values()) / len(columns),
        columns=columns,
        prediction=_column(found[PREDICTION], reference[PREDICTION], current[PREDICTION]),
        left_out=left_out,
        rows_reference=len(reference),
        rows_current=len(current),
        sampled_reference=len(samples[0]),
        sampled_current=len(samples[1]),
    )


def _check(reference: pd.DataFrame, current: pd.DataFrame, spec: FeatureSpec) -> None:
    if len(current) < MIN_CURRENT_ROWS:
        raise DriftError(
            f"drift needs at least {MIN_CURRENT_ROWS} current rows, got {len(current)}: "
            "compare a longer period"
        )
    if len(reference) < MIN_CURRENT_ROWS:
        raise DriftError(
            f"drift needs at least {MIN_CURRENT_ROWS} reference rows, got {len(reference)}: "
            "pass the champion's whole training window"
        )
    wanted = {*spec.numeric, *spec.categorical, PREDICTION}
    for side, frame in (("reference", reference), ("current", current)):
        if missing := sorted(wanted - set(frame.columns)):
            raise DriftError(f"{side} holds every input and {PREDICTION}; missing: {missing}")


def _unusable(reference: pd.Series, current: pd.Series) -> str | None:
    """Why a column cannot be compared. Constant in current alone is a finding, not a reason."""
    if reference.isna().all() or current.isna().all():
        return "all missing in " + ("the reference" if reference.isna().all() else "current rows")
    if reference.nunique() == 1:
        return "constant in the reference"
    return None


def _sampled(frame: pd.DataFrame, kept: list[str]) -> pd.DataFrame:
    rows = frame[[*kept, PREDICTION]]
    rows = rows.sample(SAMPLE_ROWS, random_state=SEED) if len(rows) > SAMPLE_ROWS else rows
    return rows.reset_index(drop=True)


def _evidently_scores(
    reference: pd.DataFrame, current: pd.DataFrame, numeric: list[str], categorical: list[str]
) -> dict[str, dict[str, Any]]:
    """method, score and threshold of each column, and of the prediction."""
    with _quiet_evidently():
        from evidently import Report
        from evidently.metrics import ValueDrift

        report = Report(
            [
                ValueDrift(column=name, method=method, threshold=THRESHOLD)
                for name, method in _methods(numeric, categorical).items()
            ]
        )
        run = report.run(
            _dataset(current, numeric, categorical), _dataset(reference, numeric, categorical)
        )
    configured = ((metric["config"], metric["value"]) for metric in run.dict()["metrics"])
    return {
        config["column"]: {
            "method": config["method"],
            "score": float(value),
            "threshold": config["threshold"],
        }
        for config, value in configured
        if "column" in config
    }


def _write_page(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    numeric: list[str],
    categorical: list[str],
    path: Path,
    workspace: Path | None,
) -> None:
    """Evidently's page to look at: these columns and the prediction."""
    with _quiet_evidently():
        from evidently import Report
        from evidently.presets import DataDriftPreset

        methods = _methods(numeric, categorical)
        preset = DataDriftPreset(
            columns=list(methods),
            per_column_method=methods,
            per_column_threshold=dict.fromkeys(methods, THRESHOLD),
        )
        run = Report([preset]).run(
            _dataset(current, numeric, categorical), _dataset(reference, numeric, categorical)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        run.save_html(str(path))
        if workspace is not None:
            _add_to_workspace(run, workspace)


def _add_to_workspace(run: "Snapshot", folder: Path) -> None:
    """Add a run to the one project of a workspace (``evidently ui --workspace <folder>``)."""
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(folder))
    found = workspace.search_project(PROJECT)
    project = found[0] if found else workspace.create_project(PROJECT)
    workspace.add_run(project.id, run)


@contextmanager
def _quiet_evidently() -> Iterator[None]:
    """Its import uses names that NumPy and Litestar have deprecated, and its page divides by the
    spread of every column, also of one that is constant in current rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)
        yield


def _methods(numeric: list[str], categorical: list[str]) -> dict[str, str]:
    return (
        dict.fromkeys(numeric, NUMBER)
        | dict.fromkeys(categorical, CATEGORY)
        | {PREDICTION: PROBABILITY}
    )


def _dataset(frame: pd.DataFrame, numeric: list[str], categorical: list[str]) -> "Dataset":
    from evidently import DataDefinition, Dataset

    definition = DataDefinition(
        numerical_columns=[*numeric, PREDICTION], categorical_columns=categorical
    )
    return Dataset.from_pandas(frame, data_definition=definition)


def _column(found: dict[str, Any], reference: pd.Series, current: pd.Series) -> ColumnDrift:
    return ColumnDrift(
        **found,
        drifted=found["score"] >= found["threshold"],
        missing_reference=float(reference.isna().mean()),
        missing_current=float(current.isna().mean()),
    )
