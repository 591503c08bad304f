"""Training and serving see equal features: a week replayed through the real SQLite online store.

Every hour the rows that became known since the last one are written, as the replay writes them, and
every flight of that hour is read as the API reads it. Then each feature of each flight is compared
with the historical join, bit for bit. The week has a snowstorm: cancellations, aircraft that were
never seen, rows past their TTL.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from monitoring.skew import skew
from ontime.clock import TICK
from ontime.dataset import askable
from ontime.feature_store import OnlineFeatures, open_feature_store, write_online
from ontime.features import FEATURE_SPEC, VIEWS
from ontime.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import World

START, END = datetime(2013, 2, 4, tzinfo=UTC), datetime(2013, 2, 11, tzinfo=UTC)
# What a client sends. The online read gets no more than this of a flight.
REQUEST = [
    "carrier",
    "flight",
    "origin",
    "dest",
    "tailnum",
    "scheduled_departure",
    "scheduled_arrival",
]


@dataclass(frozen=True)
class Replayed:
    """Every asked flight with its served features, and how many were missing and stale."""

    served: pd.DataFrame
    n_missing: np.ndarray
    n_stale: np.ndarray


def known_in(rows: pd.DataFrame, after: datetime, until: datetime) -> pd.DataFrame:
    return rows[(rows.event_timestamp > after) & (rows.event_timestamp <= until)]


@pytest.fixture(scope="module")
def fill(
    world: "World", tmp_path_factory: pytest.TempPathFactory
) -> Callable[[datetime], OnlineFeatures]:
    """A new online store with what the world's feature tables knew at a moment."""
    from pipelines.materialize import fill_online_store

    def fill(as_of: datetime) -> OnlineFeatures:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ONTIME_VAR", str(tmp_path_factory.mktemp("online")))
            fill_online_store.fn(as_of)
            return OnlineFeatures(open_feature_store(Settings()))

    return fill


@pytest.fixture(scope="module")
def replayed(world: "World", fill: Callable[[datetime], OnlineFeatures]) -> Replayed:
    online = fill(START)
    rows = {view.name: known_in(world.rows(view.name), START, END) for view in VIEWS}
    asked = known_in(askable(world.tables["flights"]), START, END)
    answers, n_missing, n_stale = [], [], []
    for tick in pd.date_range(START + TICK, END, freq=TICK).to_pydatetime():
        for name, known in rows.items():
            write_online(online.store, name, known_in(known, tick - TICK, tick))
        flights = asked[asked.event_timestamp == tick]
        if len(flights):
            answer = online.read(flights[REQUEST], tick)
            answers.append(answer.frame.assign(flight_id=flights.flight_id.to_numpy(), as_of=tick))
            n_missing += [len(names) for names in answer.missing]
            n_stale += [len(names) for names in answer.stale]
    return Replayed(pd.concat(answers), np.array(n_missing), np.array(n_stale))


def test_every_feature_of_every_flight_is_the_one_training_sees(
    replayed: Replayed, examples: pd.DataFrame
) -> None:
    result = skew(replayed.served, examples, FEATURE_SPEC)
    assert result.mismatched == {}
    assert result.predictions >= 5_000
    assert result.checked == result.predictions * len(FEATURE_SPEC.numeric)


def test_no_flight_of_the_week_was_passed_over(replayed: Replayed, examples: pd.DataFrame) -> None:
    expected = known_in(examples, START, END)
    assert sorted(replayed.served.flight_id) == sorted(expected.flight_id)


def test_what_is_reported_missing_or_stale_is_what_training_does_not_see(
    replayed: Replayed, examples: pd.DataFrame
) -> None:
    stored = [name for view in VIEWS for name in view.columns if name not in view.hidden]
    offline = examples.set_index("flight_id").loc[replayed.served.flight_id, stored]
    reported = replayed.n_missing + replayed.n_stale
    np.testing.assert_array_equal(reported, offline.isna().sum(axis=1))
    # The week is hard enough to tell: both occur.
    assert (replayed.n_missing > 0).sum() > 50
    assert (replayed.n_stale > 0).sum() > 50


def test_one_bit_of_one_served_value_is_found_in_every_feature(
    replayed: Replayed, examples: pd.DataFrame
) -> None:
    served = replayed.served.reset_index(drop=True)
    chance = np.random.default_rng(0)
    for feature in FEATURE_SPEC.numeric:
        row = chance.choice(served.index[served[feature].notna()])
        served.loc[row, feature] = np.nextafter(served.loc[row, feature], np.float32(np.inf))
    found = skew(served, examples, FEATURE_SPEC).mismatched
    assert found == dict.fromkeys(FEATURE_SPEC.numeric, 1)


def test_an_hour_that_was_not_written_is_found(
    fill: Callable[[datetime], OnlineFeatures], examples: pd.DataFrame
) -> None:
    """The rows of the hour before are not stale yet: no TTL shows this, only the comparison."""
    noon = START + timedelta(hours=17)
    flights = examples[examples.event_timestamp == noon]
    answer = fill(noon - TICK).read(flights[REQUEST], noon)
    served = answer.frame.assign(flight_id=flights.flight_id.to_numpy(), as_of=noon)
    found = skew(served, examples, FEATURE_SPEC).mismatched
    live = {"origin_state", "carrier_origin_state", "dest_state", "origin_weather"}
    assert {view.name for view in VIEWS if set(view.columns) & set(found)} >= live
    assert not any("rate" in feature for feature in found)  # the day's rates are the same
