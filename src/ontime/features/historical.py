"""Examples: one row per prediction request with its label and its features as known at that time.

Stored features come from Feast's historical join, request features from the function that the
online read calls too.
"""

import numpy as np
import pandas as pd
from feast import FeatureStore

from ontime.data.tables import read_tables
from ontime.data.timestamps import column_arrays, utc_array
from ontime.features.feast_config import FEATURE_SERVICE
from ontime.features.spec import EmptyView
from ontime.problem import (
    FEATURE_SPEC,
    SOURCE_TABLES,
    VIEWS,
    Instance,
    entity_key_columns,
    examples,
    request_features,
)
from ontime.settings import Settings

REQUEST_FIELDS = tuple(Instance.model_fields)
OUTCOME_COLUMNS = ("label", "outcome_known_at", "due_at")


class RowCountMismatch(RuntimeError):
    """The historical join returned other rows than it was given."""


def load_requests(settings: Settings) -> pd.DataFrame:
    """All prediction requests with their outcomes, from the written source tables."""
    return examples(read_tables(settings.tables_dir, SOURCE_TABLES))


def build_examples(store: FeatureStore, requests: pd.DataFrame) -> pd.DataFrame:
    """The eligible requests with their features, by event_timestamp, then instance_id.

    Columns: instance_id, event_timestamp, entity keys, request fields, label, outcome_known_at,
    due_at, and every numeric feature as float32.

    Args:
        requests: rows of `ontime.problem.examples`.

    Raises:
        RowCountMismatch: if the join dropped, doubled or invented a row.
    """
    ordered = ["event_timestamp", "instance_id"]
    requests = requests[requests.eligible].sort_values(ordered, ignore_index=True)
    arrays = column_arrays(requests, REQUEST_FIELDS)
    rows = requests[["instance_id", "event_timestamp"]].assign(**entity_key_columns(arrays))
    joined = join_features(store, rows)
    if len(joined) != len(rows) or set(joined.instance_id) != set(rows.instance_id):
        raise RowCountMismatch(
            f"the historical join must return every row once: {len(rows)} in, {len(joined)} out, "
            f"{joined.instance_id.nunique()} different"
        )
    if not joined.instance_id.equals(rows.instance_id):  # not every engine keeps the order
        joined = joined.sort_values(ordered, ignore_index=True)
    fields = {name: requests[name] for name in (*REQUEST_FIELDS, *OUTCOME_COLUMNS)}
    columns = pd.DataFrame({name: joined[name] for name in rows} | fields)
    stored = column_arrays(joined, joined.columns.difference(rows.columns))
    del joined  # its columns are freed one by one, as the events are stacked
    for view in VIEWS:
        if view.events:
            events = np.stack([stored.pop(name) for name in view.columns], axis=1)
            stored[view.name] = events.reshape(len(rows), view.events, -1)
    features = stored | request_features(arrays | stored, utc_array(requests.event_timestamp))
    del stored  # with the events, from which inputs were computed
    numeric = pd.DataFrame(FEATURE_SPEC.matrix(features), columns=list(FEATURE_SPEC.numeric))
    return pd.concat([columns, numeric], axis=1, copy=False)


def check_views(rows: pd.DataFrame) -> None:
    """Raise EmptyView if a view that is not optional gives no example a value.

    A table may have rows and still match no example: rows of another year, or keys of another form.

    Args:
        rows: examples of `build_examples`, also a part of them.
    """
    for view in VIEWS:
        inputs = FEATURE_SPEC.groups[view.name]
        if not view.optional and rows[list(inputs)].isna().all(axis=None):
            first, last = rows.event_timestamp.min(), rows.event_timestamp.max()
            raise EmptyView(
                f"a view has a value in some example unless it is declared optional; {view.name} "
                f"has none in {len(rows):,} examples from {first} to {last}. Compare the times and "
                f"the keys ({', '.join(view.keys)}) of its table with theirs, or set optional=True"
            )


def join_features(store: FeatureStore, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with every stored feature, by Feast's historical join.

    Args:
        rows: event_timestamp, the entity keys, and any column that identifies a row.
    """
    service = store.get_feature_service(FEATURE_SERVICE)
    job = store.get_historical_features(entity_df=rows, features=service)
    # Not `to_df`, which copies the whole table twice on its way out of Arrow.
    return job.to_arrow().to_pandas(split_blocks=True, self_destruct=True)
