"""The features as declared: one SQL file a view says how, `runner` builds them.

``VIEWS`` is the single declaration: keys, time to live, and every column with its allowed range.
Feast's definitions, the table schemas and the model's input list are made from it. A view's rows
are stamped on a grid (hourly, daily) or on events, always with the moment the row became *known*.
"""

from dataclasses import dataclass
from datetime import timedelta
from math import inf

from ontime.features.request import REQUEST_COLUMNS, SLACK_COLUMNS
from ontime.model import FeatureSpec
from ontime.tables import Column, Table

Range = tuple[float, float]
COUNT: Range = (0, inf)
SHARE: Range = (0, 1)
DELAY: Range = (-120, 2000)  # minutes; the year's extremes are -86 and 1301
MINUTES: Range = (0, 2000)


@dataclass(frozen=True)
class View:
    """One feature view: a table of Parquet rows, a Feast view, and a group of model inputs.

    ``ttl`` is how long a row may be used; a stopped pipeline shows as stale features after it.
    ``gaps`` names columns that the source itself leaves empty at times.
    """

    name: str
    keys: tuple[str, ...]
    ttl: timedelta
    columns: dict[str, Range]
    gaps: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()  # read by request features, not by the model itself

    @property
    def table(self) -> Table:
        grain = " x ".join(self.keys) + " x event_timestamp"
        keys = {key: Column(KEY_TYPES[key]) for key in self.keys}
        values = {
            name: Column("float64" if name in self.hidden else "float32", *span, name in self.gaps)
            for name, span in self.columns.items()
        }
        stamps = {"event_timestamp": Column("timestamp")}
        return Table(self.name, grain, (*self.keys, "event_timestamp"), keys | values | stamps)


KEY_TYPES = {
    "origin": "string",
    "dest": "string",
    "carrier": "string",
    "tailnum": "string",
    "flight": "int32",
    "departure_hour": "int32",
}
HOURLY_TTL = timedelta(hours=3)
DAILY_TTL = timedelta(days=2)

VIEWS = (
    View(
        "origin_weather",
        ("origin",),
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
        gaps=(
            "wind_speed_mph",
            "wind_gust_mph",
            "wind_from_north_mph",
            "wind_from_east_mph",
            "humidity_pct",
        ),
    ),
    View(
        "origin_state",
        ("origin",),
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
        },
    ),
    View(
        "carrier_origin_state",
        ("carrier", "origin"),
        HOURLY_TTL,
        {
            "carrier_n_departed_1h": COUNT,
            "carrier_mean_dep_delay_1h_min": DELAY,
            "carrier_n_departed_3h": COUNT,
            "carrier_mean_dep_delay_3h_min": DELAY,
            "carrier_share_dep_late_3h": SHARE,
            "carrier_n_overdue": COUNT,
            "carrier_mean_overdue_min": MINUTES,
        },
    ),
    View(
        "dest_state",
        ("dest",),
        HOURLY_TTL,
        {
            "dest_n_departed_3h": COUNT,
            "dest_mean_dep_delay_3h_min": DELAY,
            "dest_n_arrived_3h": COUNT,
            "dest_mean_arr_delay_3h_min": DELAY,
            "dest_share_arr_late_3h": SHARE,
            "dest_n_overdue": COUNT,
            "dest_mean_overdue_min": MINUTES,
        },
    ),
    View(
        "carrier_rates",
        ("carrier",),
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
        ("origin", "dest"),
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
        ("carrier", "flight"),
        DAILY_TTL,
        {
            "flight_late_rate_28d": SHARE,
            "flight_mean_arr_delay_28d_min": DELAY,
            "flight_n_flights_28d": COUNT,
        },
    ),
    View(
        "origin_hour_rates",
        ("origin", "departure_hour"),
        DAILY_TTL,
        {
            "origin_hour_late_rate_7d": SHARE,
            "origin_hour_late_rate_28d": SHARE,
            "origin_hour_mean_arr_delay_28d_min": DELAY,
        },
    ),
    View(
        "aircraft_leg",
        ("tailnum",),
        timedelta(days=30),  # an aircraft not seen for longer has been elsewhere
        {
            "aircraft_delay_min": DELAY,
            "aircraft_is_landed": SHARE,
            "aircraft_block_min": MINUTES,
            "aircraft_earliest_return_epoch_min": (0, inf),
        },
        hidden=("aircraft_earliest_return_epoch_min",),
    ),
    View(
        "aircraft",
        ("tailnum",),
        timedelta(days=400),
        {"aircraft_n_seats": (1, 1000), "aircraft_age_years": (0, 100)},
        gaps=("aircraft_age_years",),
    ),
)

JOIN_KEYS = tuple(KEY_TYPES)

_GROUPS = {
    view.name: tuple(name for name in view.columns if name not in view.hidden) for view in VIEWS
} | {"request": REQUEST_COLUMNS}
_GROUPS["aircraft_leg"] += SLACK_COLUMNS

FEATURE_SPEC = FeatureSpec(
    numeric=tuple(name for names in _GROUPS.values() for name in names),
    categorical=("carrier", "origin", "dest"),
    groups=_GROUPS,
)
