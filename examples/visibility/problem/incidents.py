"""The drills of the visibility problem: which feed fails, how, and when (`make drills`)."""

from datetime import UTC, datetime

from ontime.data.drill_types import ChangedUnit, Drill, StoppedLabels, StoppedView

DRILLS_START = datetime(2013, 5, 1, tzinfo=UTC)
SINCE, UNTIL, END = (datetime(2013, 5, day, tzinfo=UTC) for day in (14, 17, 19))

DRILLS = (
    Drill(
        "observations-stop",
        "The observations of the last day stop",
        "For three days no summary of the last 24 hours arrives.",
        StoppedView("recent_weather"),
        SINCE,
        UNTIL,
        END,
        limit_hours=24,
    ),
    Drill(
        "labels-stop",
        "The label feed stops",
        "For three days no outcome is reported; all of them arrive at the end.",
        StoppedLabels("visibility_windows", "outcome_known_at"),
        SINCE,
        UNTIL,
        END,
        limit_hours=24,
    ),
    Drill(
        "share-for-percent",
        "A source changes a unit",
        "For three days humidity arrives as a share, not in percent.",
        ChangedUnit("weather", ("humidity_pct",), 0.01),
        SINCE,
        UNTIL,
        END,
        limit_hours=48,
    ),
)
