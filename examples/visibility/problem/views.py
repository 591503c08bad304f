"""The visibility problem's stored features: one `View` per SQL file in ``sql/``."""

from datetime import timedelta
from math import inf
from pathlib import Path

from ontime.features.spec import Range, View, entity_keys, feature_spec
from ontime.problem.definition import LOCAL_ZONE, LOW_VISIBILITY_MI
from ontime.problem.request_features import REQUEST_FEATURES

SQL_FOLDER = Path(__file__).with_name("sql")
SQL_MACROS = (
    f"CREATE MACRO is_low(visibility_mi) AS visibility_mi < {LOW_VISIBILITY_MI}",
    "CREATE MACRO local_hour_of(moment) AS "
    f"extract('hour' FROM moment AT TIME ZONE '{LOCAL_ZONE}')::INT",
)
INTERMEDIATE_TABLES = ("rate_days",)

AIRPORT = {"airport": "string"}
LOCAL_HOUR = {"local_hour": "int32"}

MILES: Range = (0, 10)
INCHES: Range = (0, 60)
SPREAD: Range = (-1, 100)  # degrees Fahrenheit
WIND: Range = (-100, 100)
SHARE: Range = (0, 1)

HOURLY_TTL = timedelta(hours=6)  # the longest gap between two observations
DAILY_TTL = timedelta(days=2)

VIEWS = (
    View(
        "current_weather",
        AIRPORT,
        HOURLY_TTL,
        {
            "visibility_mi": MILES,
            "humidity_pct": (0, 100),
            "dew_point_spread_f": SPREAD,
            "wind_speed_mph": (0, 100),
            "wind_from_north_mph": WIND,
            "wind_from_east_mph": WIND,
            "precipitation_in": INCHES,
            "pressure_mb": (900, 1100),
        },
        nullable_columns=(
            "humidity_pct",
            "dew_point_spread_f",
            "wind_speed_mph",
            "wind_from_north_mph",
            "wind_from_east_mph",
            "pressure_mb",
        ),
    ),
    View(
        "recent_weather",
        AIRPORT,
        HOURLY_TTL,
        {
            "visibility_min_3h_mi": MILES,
            "visibility_mean_6h_mi": MILES,
            "visibility_min_24h_mi": MILES,
            "visibility_change_3h_mi": (-10, 10),
            "low_share_24h": SHARE,
            "precipitation_6h_in": INCHES,
            "dew_point_spread_change_3h_f": (-100, 100),
            "pressure_change_3h_mb": (-100, 100),
        },
        nullable_columns=("dew_point_spread_change_3h_f", "pressure_change_3h_mb"),
    ),
    View(
        "network_weather",
        AIRPORT,
        HOURLY_TTL,
        {
            "network_min_visibility_3h_mi": MILES,
            "network_mean_visibility_3h_mi": MILES,
            "network_mean_dew_point_spread_3h_f": SPREAD,
            "network_precipitation_3h_in": (0, inf),
        },
        nullable_columns=("network_mean_dew_point_spread_3h_f",),
    ),
    View("recent_windows", AIRPORT, HOURLY_TTL, {"low_rate_12h": SHARE, "low_rate_48h": SHARE}),
    View(
        "airport_rates",
        AIRPORT,
        DAILY_TTL,
        {"airport_low_rate_7d": SHARE, "airport_low_rate_28d": SHARE},
    ),
    View(
        "airport_hour_rates",
        AIRPORT | LOCAL_HOUR,
        DAILY_TTL,
        {"airport_hour_low_rate_28d": SHARE},
    ),
)

AGGREGATES = tuple(name for view in VIEWS if "recent" in view.name for name in view.columns)
ENTITY_KEYS = entity_keys(VIEWS)
FEATURE_SPEC = feature_spec(VIEWS, REQUEST_FEATURES, categorical=("airport",))
