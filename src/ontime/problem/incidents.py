"""The drills of the flight problem: which feed fails, how, and when (`make drills`)."""

from datetime import UTC, datetime

from ontime.data.drill_types import (
    ChangedRegime,
    ChangedUnit,
    CorruptedLabels,
    Drill,
    StoppedLabels,
    StoppedView,
)

DRILLS_START = datetime(2013, 5, 29, tzinfo=UTC)  # the undisturbed weeks before the incidents


def june(day: int) -> datetime:
    return datetime(2013, 6, day, tzinfo=UTC)


DRILLS = (
    Drill(
        "weather-stops",
        "The weather feed stops",
        "For three days no weather observation arrives. Thunderstorms cross New York on the third.",
        StoppedView("origin_weather"),
        june(11),
        june(14),
        june(15),
        limit_hours=24,
    ),
    Drill(
        "labels-stop",
        "The label feed stops",
        "For three days no outcome of a flight is reported; all of them arrive at the end.",
        StoppedLabels("flights", "outcome_known_at"),
        june(11),
        june(14),
        june(15),
        limit_hours=24,
    ),
    Drill(
        "hours-for-minutes",
        "A source changes a unit",
        "For three days the delays from which features are computed arrive in hours, not in "
        "minutes. Outcomes come from another system and are right.",
        ChangedUnit("flights", ("dep_delay_min", "arr_delay_min"), 1 / 60),
        june(11),
        june(14),
        june(15),
        limit_hours=48,
    ),
    Drill(
        "labels-inverted",
        "A challenger is trained on corrupted labels",
        "A new export swaps late and on time in the last four weeks of the training data. The "
        "outcomes that the API is told are right.",
        CorruptedLabels("flights", "is_late", "outcome_known_at"),
        june(12),
        june(19),
        june(19),
        limit_hours=7 * 24,
    ),
    Drill(
        "regime-change",
        "A real change of regime",
        "Nothing is simulated: in the weeks from 12 June on far more flights are late than in "
        "spring. The schedule is switched off, so that only an alert can start a training.",
        ChangedRegime(),
        june(12),
        june(28),
        june(28),
        limit_hours=7 * 24,
    ),
)
