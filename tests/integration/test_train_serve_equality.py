"""Training and serving read equal features: one week through the SQLite online store.

Every tick, the feature rows that became known since the last one are written, as the simulation
writes them, and every request of that tick is read, as the API reads it. Each feature of each
request is compared with the historical join, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from monitoring.skew import skew
from ontime.features.historical import REQUEST_FIELDS
from ontime.features.online_store import DERIVED, OnlineFeatures, OnlineWriter
from ontime.problem import FEATURE_SPEC, PREDICTION_INTERVAL, VIEWS
from tests.conftest import Dataset, read_online

FIRST_DAY, N_DAYS = 34, 7
STORED = [name for view in VIEWS for name in view.inputs]

OnlineStoreAt = Callable[[datetime], OnlineFeatures]


@dataclass(frozen=True)
class Week:
    """Every request of a week with its served features, and how many were missing or stale."""

    start: datetime
    end: datetime
    served: pd.DataFrame
    n_unusable: np.ndarray


def between(rows: pd.DataFrame, after: datetime, until: datetime) -> pd.DataFrame:
    return rows[(rows.event_timestamp > after) & (rows.event_timestamp <= until)]


@pytest.fixture(scope="module")
def week(dataset: Dataset, online_store_at: OnlineStoreAt) -> Week:
    start = dataset.start + timedelta(days=FIRST_DAY)
    end = start + timedelta(days=N_DAYS)
    online = online_store_at(start)
    writer = OnlineWriter(online.store)
    rows = [(view, between(dataset.rows(view.name), start, end)) for view in VIEWS]
    requests = between(dataset.requests[dataset.requests.eligible], start, end)
    served, n_unusable = [], []
    ticks = pd.date_range(start + PREDICTION_INTERVAL, end, freq=PREDICTION_INTERVAL)
    for tick in ticks.to_pydatetime():
        before = tick - PREDICTION_INTERVAL
        writer.write([(view, between(known, before, tick)) for view, known in rows])
        now = requests[requests.event_timestamp == tick]
        if len(now):
            read = read_online(online, now[[*REQUEST_FIELDS]], tick)
            served.append(read.frame.assign(instance_id=now.instance_id.to_numpy(), as_of=tick))
            n_unusable += [len(a) + len(b) for a, b in zip(read.missing, read.stale, strict=True)]
    return Week(start, end, pd.concat(served), np.array(n_unusable))


def test_every_served_feature_equals_the_training_feature(
    week: Week, examples: pd.DataFrame
) -> None:
    result = skew(week.served, examples, FEATURE_SPEC)
    assert result.mismatched == {}
    assert result.predictions > 300
    assert result.checked == result.predictions * len(FEATURE_SPEC.numeric)


def test_every_request_of_the_week_was_served(week: Week, examples: pd.DataFrame) -> None:
    expected = between(examples, week.start, week.end)
    assert sorted(week.served.instance_id) == sorted(expected.instance_id)


def test_features_reported_missing_or_stale_are_missing_in_training(
    week: Week, examples: pd.DataFrame
) -> None:
    named = [*STORED, *(name for names in DERIVED.values() for name in names)]
    named += [FEATURE_SPEC.groups[sequence][0] for sequence in FEATURE_SPEC.sequences]
    offline = examples.set_index("instance_id").loc[week.served.instance_id, named]
    np.testing.assert_array_equal(week.n_unusable, offline.isna().sum(axis=1))


def test_one_changed_bit_is_found_in_every_feature(week: Week, examples: pd.DataFrame) -> None:
    served = week.served.reset_index(drop=True)
    chance = np.random.default_rng(0)
    for feature in FEATURE_SPEC.numeric:
        row = chance.choice(served.index[served[feature].notna()])
        served.loc[row, feature] = np.nextafter(served.loc[row, feature], np.float32(np.inf))
    found = skew(served, examples, FEATURE_SPEC).mismatched
    assert found == dict.fromkeys(FEATURE_SPEC.numeric, 1)


def test_a_tick_that_was_not_written_is_found(
    week: Week, online_store_at: OnlineStoreAt, examples: pd.DataFrame
) -> None:
    """The rows of the tick before are not stale yet: only the comparison finds this."""
    tick = between(examples, week.start + timedelta(hours=16), week.end).event_timestamp.min()
    rows = examples[examples.event_timestamp == tick]
    read = read_online(online_store_at(tick - PREDICTION_INTERVAL), rows[[*REQUEST_FIELDS]], tick)
    served = read.frame.assign(instance_id=rows.instance_id.to_numpy(), as_of=tick)
    assert skew(served, examples, FEATURE_SPEC).mismatched != {}
