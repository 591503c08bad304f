"""Every feature against an independent computation with pandas, and leaks that must be found."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from ontime.features import builder
from ontime.problem import FEATURE_SPEC, VIEWS, hide_after
from tests.conftest import Dataset

HOUR, DAY = pd.Timedelta(hours=1), pd.Timedelta(days=1)
# Fog, a snowstorm, a daily tick, and an hour without observation at any airport.
MOMENTS = ["2013-01-11 09:00", "2013-02-08 23:00", "2013-02-11 08:00", "2013-02-21 06:00"]


def expected(dataset: Dataset, airport: str, at: pd.Timestamp) -> dict[str, float]:
    """The stored features at a moment, from what was known then, row by row."""
    known = dataset.tables["weather"].query("known_at <= @at")
    known = known.assign(spread=known.temperature_f - known.dew_point_f)
    own = known[known.airport == airport].sort_values("known_at")
    now, newest = own.iloc[-1], own.known_at.iloc[-1]
    network = known[known.known_at > newest - 3 * HOUR]

    def last(hours: int) -> pd.DataFrame:
        return own[own.known_at > newest - hours * HOUR]

    windows = dataset.tables["visibility_windows"]
    ended = windows.query("outcome_known_at <= @at & airport == @airport")

    def rate(rows: pd.DataFrame, end: pd.Timestamp, span: pd.Timedelta) -> float:
        low = rows[(rows.outcome_known_at <= end) & (rows.outcome_known_at > end - span)]
        return float((low.is_low.sum() + 1) / (len(low) + 12))

    tick = (at - 8 * HOUR).floor("D") + 8 * HOUR
    hours = ended.window_start.dt.tz_convert("America/New_York").dt.hour
    same_hour = ended[hours == at.tz_convert("America/New_York").hour]
    direction = np.radians(float(now.wind_direction_deg))
    return {
        "visibility_mi": now.visibility_mi,
        "humidity_pct": now.humidity_pct,
        "dew_point_spread_f": now.spread,
        "wind_speed_mph": now.wind_speed_mph,
        "wind_from_north_mph": now.wind_speed_mph * np.cos(direction),
        "wind_from_east_mph": now.wind_speed_mph * np.sin(direction),
        "precipitation_in": now.precipitation_in,
        "pressure_mb": now.pressure_mb,
        "visibility_min_3h_mi": last(3).visibility_mi.min(),
        "visibility_mean_6h_mi": last(6).visibility_mi.mean(),
        "visibility_min_24h_mi": last(24).visibility_mi.min(),
        "visibility_change_3h_mi": now.visibility_mi - last(4).visibility_mi.iloc[0],
        "low_share_24h": (last(24).visibility_mi < 3).mean(),
        "precipitation_6h_in": last(6).precipitation_in.sum(),
        "dew_point_spread_change_3h_f": now.spread - last(4).spread.iloc[0],
        "pressure_change_3h_mb": now.pressure_mb - last(4).pressure_mb.iloc[0],
        "network_min_visibility_3h_mi": network.visibility_mi.min(),
        "network_mean_visibility_3h_mi": network.visibility_mi.mean(),
        "network_mean_dew_point_spread_3h_f": network.spread.mean(),
        "network_precipitation_3h_in": network.precipitation_in.sum(),
        "low_rate_12h": rate(ended, ended.outcome_known_at.max(), 12 * HOUR),
        "low_rate_48h": rate(ended, ended.outcome_known_at.max(), 48 * HOUR),
        "airport_low_rate_7d": rate(ended, tick, 7 * DAY),
        "airport_low_rate_28d": rate(ended, tick, 28 * DAY),
        "airport_hour_low_rate_28d": rate(same_hour, tick, 28 * DAY),
        "local_hour_sin": np.sin(at.tz_convert("America/New_York").hour * np.pi / 12),
        "local_hour_cos": np.cos(at.tz_convert("America/New_York").hour * np.pi / 12),
    }


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_feature_is_what_pandas_computes(
    dataset: Dataset, examples: pd.DataFrame, moment: str
) -> None:
    at = pd.Timestamp(moment, tz="UTC")
    rows = examples[examples.event_timestamp == at]
    assert sorted(rows.airport) == ["EWR", "JFK", "LGA"]
    for row in rows.to_dict("records"):
        values = expected(dataset, row["airport"], at)
        assert set(values) == set(FEATURE_SPEC.numeric)
        found = [row[name] for name in values]
        np.testing.assert_allclose(found, list(values.values()), rtol=1e-5, atol=1e-4)


LEAKS = {
    "an observation known when it is filed": (
        "current_weather",
        "current_weather",
        "known_at AS event_timestamp",
        "known_at - INTERVAL 1 HOUR AS event_timestamp",
    ),
    "a window of hours that ends in the future": (
        "recent_weather",
        "recent_weather",
        "INTERVAL 5 HOUR PRECEDING AND CURRENT ROW",
        "INTERVAL 5 HOUR PRECEDING AND INTERVAL 1 HOUR FOLLOWING",
    ),
    "an outcome known when its window starts": (
        "recent_windows",
        "recent_windows",
        "outcome_known_at AS event_timestamp",
        "window_start AS event_timestamp",
    ),
    "a rate of windows that have not ended": (
        "airport_rates",
        "rate_days",
        "ON outcome_known_at <= day",
        "ON window_start <= day",
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_found(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, leak: str) -> None:
    view, file, correct, leaky = LEAKS[leak]
    read_sql = builder.read_sql
    assert correct in read_sql(file)
    monkeypatch.setattr(
        builder,
        "read_sql",
        lambda name: read_sql(name).replace(correct, leaky if name == file else correct),
    )
    moment = datetime(2013, 2, 11, 8, tzinfo=UTC)
    leaking = [each for each in VIEWS if each.name == view]

    def rows(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
        ((_, built),) = builder.build_features(tables, moment, leaking)
        return built

    assert not rows(dataset.tables).equals(rows(hide_after(dataset.tables, moment)))
