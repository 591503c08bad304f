"""Training examples: one row a flight with its features as they were known when it was asked about.

The features come from Feast's historical join and nowhere else. Splits are by time, and a row
belongs to a training set only once its outcome is *known*.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from feast import FeatureStore

from ontime.clock import prediction_time
from ontime.feature_store import SERVICE
from ontime.features import FEATURE_SPEC, JOIN_KEYS
from ontime.features.request import add_request_features, departure_hour

ENTITY_COLUMNS = [
    "flight_id",
    "event_timestamp",
    *JOIN_KEYS,
    "scheduled_departure",
    "scheduled_arrival",
    "is_late",
    "outcome_known_at",
]
VALID = timedelta(days=7)  # the last days before a split stop the fit early


class RowsLost(RuntimeError):
    """The historical join returned other rows than it was given."""


@dataclass(frozen=True)
class Split:
    """Three stretches of time without overlap, oldest first.

    fit: outcomes known before `valid` begins. valid: the last days before the judged ones, for
    those who stop early on them. judge: asked about in the last days before as_of, and seen by no
    model.
    """

    fit: pd.DataFrame
    valid: pd.DataFrame
    judge: pd.DataFrame

    @property
    def known(self) -> pd.DataFrame:
        """Everything that may be learnt from."""
        return pd.concat([self.fit, self.valid], ignore_index=True)


def askable(flights: pd.DataFrame) -> pd.DataFrame:
    """The flights that can be asked about, with the moment of asking as ``event_timestamp``.

    Flights without a tail number are left out: all of them were cancelled, so "unknown tail"
    is the label in disguise.
    """
    known = flights[flights.tailnum.notna()]
    return known.assign(
        event_timestamp=prediction_time(known.scheduled_departure),
        departure_hour=departure_hour(known.scheduled_departure),
    )


def build_examples(store: FeatureStore, flights: pd.DataFrame) -> pd.DataFrame:
    """Each askable flight with its features at its prediction time, in order of that time.

    Raises:
        RowsLost: if the join dropped, doubled or invented a row.
    """
    rows = askable(flights)[ENTITY_COLUMNS]
    joined = join_features(store, rows)
    if len(joined) != len(rows) or set(joined.flight_id) != set(rows.flight_id):
        raise RowsLost(
            f"the historical join must return every row once: {len(rows)} in, {len(joined)} out, "
            f"{joined.flight_id.nunique()} different"
        )
    # The join promises no order.
    joined = joined.sort_values(["event_timestamp", "flight_id"], ignore_index=True)
    examples = add_request_features(joined, joined.event_timestamp)
    return examples.astype(dict.fromkeys(FEATURE_SPEC.numeric, np.float32))


def join_features(store: FeatureStore, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with every feature, by Feast's historical join.

    Not by its `to_df`, which copies the whole table twice on the way out of Arrow.
    """
    service = store.get_feature_service(SERVICE)
    job = store.get_historical_features(entity_df=rows, features=service)
    return job.to_arrow().to_pandas(split_blocks=True)


def split_by_time(
    examples: pd.DataFrame,
    as_of: datetime,
    valid: timedelta = VALID,
    judge: timedelta = timedelta(days=14),
) -> Split:
    """Split what was known at ``as_of``; the row order is kept.

    Raises:
        ValueError: if a part would be empty.
    """
    known = examples[examples.outcome_known_at <= as_of]
    return split_at(known, as_of - judge, as_of, valid)


def split_at(
    examples: pd.DataFrame, moment: datetime, until: datetime, valid: timedelta = VALID
) -> Split:
    """Fit and stop early on what was known at ``moment``, judge on what was asked until ``until``.

    Raises:
        ValueError: if a part would be empty.
    """
    valid_from = pd.Timestamp(moment) - valid
    asked, known = examples.event_timestamp, examples.outcome_known_at
    split = Split(
        fit=examples[known <= valid_from],
        valid=examples[(asked >= valid_from) & (known <= moment)],
        judge=examples[(asked >= moment) & (asked < until)],
    )
    for name, part in vars(split).items():
        if part.empty:
            raise ValueError(
                f"no flights to {name} on: the examples reach from {asked.min()} to {asked.max()}, "
                f"they are split at {moment} and judged until {until}; choose a moment at least "
                f"{valid.days + 28} days in"
            )
    return split
