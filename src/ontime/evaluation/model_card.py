"""The model card that every model version carries: intended use, evaluation, limits."""

from collections.abc import Mapping

import pandas as pd

from ontime.data.splits import Split
from ontime.models.serialization import TrainedModel
from ontime.problem import (
    COST_FALSE_ALARM,
    COST_MISS,
    INSTANCES,
    LIMITS,
    NAME,
    POSITIVE_LABEL,
    PREDICTION_MOMENT,
    QUESTION,
)

CARD = """\
# Model card: {name}

{question}

- Prediction time: {prediction_moment}.
- Output: the probability that the label is positive ({positive_label}).

| | |
|---|---|
| trained through | {trained_through} UTC ({n_train:,} {instances}) |
| training | knowledge distillation from {members} LightGBM models, one per day-grouped fold |
| evaluated on | {evaluated_on} |
| decision threshold | {threshold:.2f} (a miss costs as much as {cost_ratio:.0f} false alarms) |
| cost of the decisions | {cost} |

## Evaluation
{evaluation}

{models}

Log-loss of the network minus that of each other model, paired cluster bootstrap by day (negative:
the network is better):

{differences}

## Feature-group importance
The reduction of the log-loss by each group of inputs, in nats per row: mean Shapley values (SAGE)
on {instances} of {importance_rows}. `POST /explain` returns the same for one prediction, as
probabilities.

{importance}

## Fairness: calibration by slice
Calibration bias is the mean prediction minus the positive rate. A bias of more than three standard
errors is marked. Lowest and highest bias of each slice:

{ranges}

{slices}

## Missing inputs
A missing or stale input is given to the network as missing, never as zero or as a mean. Groups of
inputs were dropped at random in training, so predictions without them are calibrated too.

## Limits
{limits}
"""

COST = (
    "{cost_per_1000:.0f} per 1,000 {instances}, in false alarms; "
    "{cost_per_1000_at_cross_validated_threshold:.0f} at {cross_validated_threshold:.3f}, the best "
    "threshold of the cross-validated probabilities"
)
TESTED = f"Scores of the network, its teachers and the baselines on the same {INSTANCES}:"
CROSS_VALIDATED = "live traffic in shadow, before promotion: the tag `gate_reasons` of the version"
CROSS_VALIDATION = (
    "The network is trained on every known outcome, so that no test row is left. Scores of its "
    "teachers, each on the days that it did not see:"
)


def model_card(
    model: TrainedModel,
    split: Split,
    tables: Mapping[str, pd.DataFrame],
    costs: Mapping[str, float],
) -> str:
    """The card as Markdown.

    Args:
        model: with metadata threshold and trained_through.
        costs: cost_per_1000 of the evaluated rows, cross_validated_threshold, and
            cost_per_1000_at_cross_validated_threshold.
        tables: models (one row per model), differences, importance, slices.
    """
    slices = tables["slices"]
    is_marked = slices.calibration_bias.abs() > 3 * slices.calibration_bias_error
    test_times = split.test.event_timestamp
    has_test = not split.test.empty
    evaluated_on = CROSS_VALIDATED
    if has_test:
        period = f"{test_times.min():%Y-%m-%d} to {test_times.max():%Y-%m-%d}"
        evaluated_on = f"{len(split.test):,} {INSTANCES} from {period}"
    return CARD.format(
        name=NAME,
        question=QUESTION,
        prediction_moment=PREDICTION_MOMENT,
        positive_label=POSITIVE_LABEL,
        instances=INSTANCES,
        trained_through=str(model.metadata["trained_through"])[:16].replace("T", " "),
        evaluated_on=evaluated_on,
        evaluation=TESTED if has_test else CROSS_VALIDATION,
        importance_rows="the test period" if has_test else "the training period",
        n_train=len(split.train) + len(split.validation),
        members=model.network.config.members,
        threshold=model.metadata["threshold"],
        cost_ratio=COST_MISS / COST_FALSE_ALARM,
        cost=COST.format_map({"instances": INSTANCES, **costs}),
        models=_markdown(tables["models"]),
        differences=_markdown(tables["differences"]) if has_test else "None: no test rows.",
        importance=_markdown(tables["importance"]),
        ranges=_ranges(slices),
        slices=_markdown(slices.assign(marked=is_marked.map({True: "<-", False: ""}))),
        limits="\n".join(f"- {limit}" for limit in LIMITS),
    )


def _ranges(slices: pd.DataFrame) -> str:
    lines = []
    for name, values in slices.groupby("slice", sort=False):
        ends = values.sort_values("calibration_bias").iloc[[0, -1]]
        biases = [f"{row.value} {row.calibration_bias:+.3f}" for row in ends.itertuples()]
        lines.append(f"- {name}: {' to '.join(biases)}")
    return "\n".join(lines)


def _markdown(table: pd.DataFrame) -> str:
    """The frame as a Markdown table, floats with four decimals."""

    def cell(value: object) -> str:
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)
