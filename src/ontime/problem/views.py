"""The flight problem's stored features: one `View` per SQL file in ``sql/``.

Each file states its grain, its units and when its rows become known. Views are stamped on a grid
(hourly, daily) or on events, so that the row the historical join picks is the row the online store
holds. `SQL_MACROS` and `INTERMEDIATE_TABLES` are created before the views, in this order.
"""

from datetime import timedelta
from math import inf
from pathlib import Path

from ontime.features.spec import Range, View, entity_keys, feature_spec
from ontime.problem.definition import LATE_MIN
from ontime.problem.request_features import EVENTS, REQUEST_FEATURES

DAILY_TICK_HOUR = 8  # UTC: rates are updated in the middle of the local night
SQL_FOLDER = Path(__file__).with_name("sql")
SQL_MACROS = (
    "CREATE MACRO ceil_hour(t) AS date_trunc('hour', t - INTERVAL 1 MICROSECOND) + INTERVAL 1 HOUR",
    # The first daily tick at or after t.
    f"CREATE MACRO ceil_daily_tick(t) AS INTERVAL {DAILY_TICK_HOUR} HOUR + INTERVAL 1 DAY + "
    f"date_trunc('day', t - INTERVAL {DAILY_TICK_HOUR} HOUR - INTERVAL 1 MICROSECOND)",
    f"CREATE MACRO late_min() AS {LATE_MIN}",
    # A delay in minutes as a signed logarithm in whole thousandths: sums of whole numbers do not
    # depend on their order.
    "CREATE MACRO log_delay(delay_min) AS round("
    "1000 * sign(delay_min::DOUBLE) * ln(1 + abs(delay_min::DOUBLE) / 10))::INT",
    # Whose last flights are aggregated, and how many of them (see last_flights).
    "CREATE MACRO last_flights_of(carrier, origin, dest) AS ["
    "{'relation': 'origin', 'key': origin, 'n_last': 48},"
    "{'relation': 'carrier', 'key': carrier, 'n_last': 32},"
    "{'relation': 'carrier_origin', 'key': carrier || ' ' || origin, 'n_last': 12},"
    "{'relation': 'dest', 'key': dest, 'n_last': 8},"
    "{'relation': 'carrier_dest', 'key': carrier || ' ' || dest, 'n_last': 6}]",
    # Whose last flights are kept one by one, and how many of them (see recent_flights).
    "CREATE MACRO recent_flights_of(carrier, flight, dest) AS ["
    f"{{'relation': 'dest', 'key': dest, 'n_last': {EVENTS['dest_events']}}},"
    "{'relation': 'flight', 'key': carrier || ' ' || flight, "
    f"'n_last': {EVENTS['flight_events']}}}]",
)
INTERMEDIATE_TABLES = ("flight_hours", "outcome_days", "last_flights", "recent_flights")

ORIGIN = {"origin": "string"}
DEST = {"dest": "string"}
CARRIER = {"carrier": "string"}
TAILNUM = {"tailnum": "string"}
FLIGHT = {"flight": "int32"}
DEPARTURE_HOUR = {"departure_hour": "int32"}

COUNT: Range = (0, inf)
SHARE: Range = (0, 1)
DELAY: Range = (-120, 2000)  # minutes; the year's extremes are -86 and 1301
MINUTES: Range = (0, 2000)
LOG_DELAY: Range = (-3, 6)  # of -120 and 2000 minutes: -2.6 and 5.3
SPREAD: Range = (0, 4)  # of log delays, half of their range
EPOCH_MINUTES: Range = (0, inf)
# One period until the next row, and one for the flow that writes it; docs/security.md lists them.
HOURLY_TTL = timedelta(hours=2)
DAILY_TTL = timedelta(days=2)

# The columns of an event; see `ontime.problem.request_features.event_inputs`.
EVENT_COLUMNS = {
    "scheduled_epoch_min": EPOCH_MINUTES,
    "dep_delay_min": DELAY,
    "arr_delay_min": DELAY,
    "is_late": SHARE,
    "block_min": MINUTES,
}
# An event stays what it was; after a month the sequence is history.
EVENTS_TTL = timedelta(days=30)

VIEWS = (
    View(
        "origin_weather",
        ORIGIN,
        timedelta(hours=6),  # the longest gap in the year's observations
        {
            "wind_speed_mph": (0, 100),
            "wind_gust_mph": (0, 150),
            "wind_from_north_mph": (-100, 100),
            "wind_from_east_mph": (-100, 100),
            "humidity_pct": (0, 100),
            "precipitation_in": (0, 10),
            "visibility_mi": (0, 10),
        },
        nullable_columns=(
            "wind_speed_mph",
            "wind_gust_mph",
            "wind_from_north_mph",
            "wind_from_east_mph",
            "humidity_pct",
        ),
        optional=True,  # the monthly files of all airports have no weather
    ),
    View(
        "origin_state",
        ORIGIN,
        HOURLY_TTL,
        {
            "origin_n_departed_1h": COUNT,
            "origin_mean_dep_delay_1h_min": DELAY,
            "origin_share_dep_late_1h": SHARE,
            "origin_n_departed_3h": COUNT,
            "origin_mean_dep_delay_3h_min": DELAY,
            "origin_share_dep_late_3h": SHARE,
            "origin_n_overdue": COUNT,
            "origin_mean_overdue_min": MINUTES,
            "network_n_departed_1h": COUNT,
            "network_mean_dep_delay_1h_min": DELAY,
            "network_n_departed_3h": COUNT,
            "network_mean_dep_delay_3h_min": DELAY,
            "network_share_dep_late_3h": SHARE,
            "network_n_overdue": COUNT,
            "network_mean_overdue_min": MINUTES,
            "origin_log_delay_last_48": LOG_DELAY,
            "origin_log_delay_spread_last_48": SPREAD,
        },
    ),
    View(
        "carrier_origin_state",
        CARRIER | ORIGIN,
        HOURLY_TTL,
        {
            "carrier_n_departed_1h": COUNT,
            "carrier_mean_dep_delay_1h_min": DELAY,
            "carrier_n_departed_3h": COUNT,
            "carrier_mean_dep_delay_3h_min": DELAY,
            "carrier_share_dep_late_3h": SHARE,
            "carrier_n_overdue": COUNT,
            "carrier_mean_overdue_min": MINUTES,
            "carrier_origin_log_delay_last_12": LOG_DELAY,
            "carrier_log_delay_last_32": LOG_DELAY,
            "carrier_log_delay_spread_last_32": SPREAD,
            "carrier_share_late_last_32": SHARE,
        },
    ),
    View(
        "dest_state",
        DEST,
        HOURLY_TTL,
        {
            "dest_n_departed_3h": COUNT,
            "dest_mean_dep_delay_3h_min": DELAY,
            "dest_n_arrived_3h": COUNT,
            "dest_mean_arr_delay_3h_min": DELAY,
            "dest_share_arr_late_3h": SHARE,
            "dest_n_overdue": COUNT,
            "dest_mean_overdue_min": MINUTES,
            "dest_log_delay_last_8": LOG_DELAY,
            "dest_log_delay_spread_last_8": SPREAD,
        },
    ),
    View(
        "carrier_dest_state",
        CARRIER | DEST,
        timedelta(days=30),  # a row stays true until the next flight; after a month it is history
        {
            "carrier_dest_log_delay_last_6": LOG_DELAY,
            "carrier_dest_log_delay_spread_last_6": SPREAD,
        },
    ),
    View(
        "carrier_rates",
        CARRIER,
        DAILY_TTL,
        {
            "carrier_late_rate_1d": SHARE,
            "carrier_late_rate_7d": SHARE,
            "carrier_late_rate_28d": SHARE,
            "carrier_mean_arr_delay_28d_min": DELAY,
        },
    ),
    View(
        "route_rates",
        ORIGIN | DEST,
        DAILY_TTL,
        {
            "route_late_rate_7d": SHARE,
            "route_late_rate_28d": SHARE,
            "route_mean_arr_delay_28d_min": DELAY,
            "route_n_flights_28d": COUNT,
        },
    ),
    View(
        "flight_rates",
        CARRIER | FLIGHT,
        DAILY_TTL,
        {
            "flight_late_rate_28d": SHARE,
            "flight_mean_arr_delay_28d_min": DELAY,
            "flight_n_flights_28d": COUNT,
        },
    ),
    View(
        "origin_hour_rates",
        ORIGIN | DEPARTURE_HOUR,
        DAILY_TTL,
        {
            "origin_hour_late_rate_7d": SHARE,
            "origin_hour_late_rate_28d": SHARE,
            "origin_hour_mean_arr_delay_28d_min": DELAY,
        },
    ),
    View(
        "aircraft_leg",
        TAILNUM,
        timedelta(days=30),  # after longer it has flown elsewhere meanwhile
        {
            "aircraft_delay_min": DELAY,
            "aircraft_is_landed": SHARE,
            "aircraft_block_min": MINUTES,
            "aircraft_earliest_return_epoch_min": (0, inf),
        },
        helper_columns=("aircraft_earliest_return_epoch_min",),
    ),
    View(
        "aircraft",
        TAILNUM,
        timedelta(days=400),
        {"aircraft_n_seats": (1, 1000), "aircraft_age_years": (0, 100)},
        nullable_columns=("aircraft_age_years",),
        optional=True,
    ),
    View.of_events(
        "dest_events",
        DEST,
        EVENTS_TTL,
        EVENTS["dest_events"],
        EVENT_COLUMNS,
        helper_columns=("scheduled_epoch_min",),
    ),
    View.of_events(
        "flight_events",
        CARRIER | FLIGHT,
        EVENTS_TTL,
        EVENTS["flight_events"],
        EVENT_COLUMNS,
        helper_columns=("scheduled_epoch_min",),
    ),
)

AGGREGATES = tuple(name for view in VIEWS for name in view.columns if "_last_" in name)
ENTITY_KEYS = entity_keys(VIEWS)
FEATURE_SPEC = feature_spec(VIEWS, REQUEST_FEATURES, categorical=("carrier", "origin", "dest"))
