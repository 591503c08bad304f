"""The card that every model version carries: what it is, what it was judged on, what it is not."""

from datetime import datetime

import pandas as pd

CARD = """\
# ontime: will this flight arrive 15 or more minutes late?

**Asked** on the hour, two to three hours before the scheduled departure from EWR, JFK or LGA.
**Answer**: the probability that it arrives 15 or more minutes late, or not at all.

| | |
|---|---|
| trained through | {trained_through:%Y-%m-%d %H:%M} UTC ({known_rows:,} flights) |
| taught by | {teachers} boosted forests, each of which never saw a share of the days |
| judged on | {judge_rows:,} flights from {judge_from:%Y-%m-%d} to {judge_to:%Y-%m-%d}, unseen |
| decision threshold | {threshold:.2f} (a missed late flight costs {cost_ratio:.0f} false alarms) |

## Against the baselines, on the same unseen flights
{models}

Log-loss against the network, paired bootstrap over whole days (negative: the network is better):

{differences}

## What the inputs are worth
How much each group of inputs lowers the log-loss on flights of these weeks, in nats a flight: mean
Shapley values, from knowing nothing (every input missing) to the answer. `POST /explain` tells the
same of one flight, in probability.

{worth}

## Fairness: calibration by group
Predicted minus actual share of late flights. A gap of more than three standard errors is marked.
The ranges, from the group judged most mildly to the one judged most harshly:

{ranges}

{slices}

## Missing inputs
A missing or stale input is shown to the network as missing, never as zero or a mean. In training,
whole groups of inputs were hidden at random, so that the answer without them is calibrated too.

## Limits
- New York departures of 2013, one year: the next year's regime is not in it.
- The tail number is the aircraft that flew, not the one planned two hours before.
- Flights without a tail number are left out: in this data all of them were cancelled.
- Cancellations and diversions are assumed to be known four hours after the scheduled time.
- It is a forecast for planning, not for decisions about a person.
"""

COST_RATIO = 3.0  # warning in vain costs a look at the board; missing it costs a connection


def model_card(
    models: pd.DataFrame,
    differences: pd.DataFrame,
    slices: pd.DataFrame,
    worth: pd.DataFrame,
    sizes: dict[str, int],
    teachers: int,
    trained_through: datetime,
    judge_from: datetime,
    judge_to: datetime,
    threshold: float,
) -> str:
    """The card as Markdown. ``models``: a row a model; ``slices``: a row a group;
    ``worth``: a row a group of inputs."""
    marked = slices.assign(
        marked=(slices.gap.abs() > 3 * slices.gap_error).map({True: "<-", False: ""})
    )
    return CARD.format(
        trained_through=trained_through,
        judge_from=judge_from,
        judge_to=judge_to,
        known_rows=sizes["fit"] + sizes["valid"],
        teachers=teachers,
        judge_rows=sizes["judge"],
        threshold=threshold,
        cost_ratio=COST_RATIO,
        models=markdown(models),
        differences=markdown(differences),
        worth=markdown(worth),
        ranges=_ranges(slices),
        slices=markdown(marked),
    )


def _ranges(slices: pd.DataFrame) -> str:
    """For each slice, the groups with the lowest and the highest gap."""
    lines = []
    for name, groups in slices.groupby("slice", sort=False):
        ordered = groups.sort_values("gap")
        low, high = ordered.iloc[0], ordered.iloc[-1]
        lines.append(f"- {name}: {low.value} {low.gap:+.3f} to {high.value} {high.gap:+.3f}")
    return "\n".join(lines)


def markdown(table: pd.DataFrame) -> str:
    """The frame as a Markdown table, numbers to four places."""

    def cell(value: object) -> str:
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)
