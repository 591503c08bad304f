"""The pages' texts, columns, sliders and scenarios for visibility at airports."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from ontime.data.page_types import BoardRow, Scenario, Slider, Values
from ontime.problem.definition import LOCAL_ZONE, WINDOW

TEMPLATES_FOLDER = Path(__file__).with_name("templates")
BOARD_TITLE = "The next six hours"
BOARD_COLUMNS = ("Airport", "Until")
BOARD_WINDOW = WINDOW
DECISION_TEXTS = {True: "low", False: "clear"}
RATE_TEXT = "low"

GROUP_NAMES = {
    "current_weather": "Weather now",
    "recent_weather": "Weather of the last day",
    "network_weather": "Weather at the other airports",
    "recent_windows": "Windows of the last two days",
    "airport_rates": "The airport's month",
    "airport_hour_rates": "This hour's month",
    "request": "Hour and season",
    "airport": "The airport",
}
FIELD_NAMES = {"airport": "Airport", "window_start": "Start of the window"}

SLIDERS = (
    Slider("Visibility now", "miles", 0, 10, 0.25, {"visibility_mi": (0, 10)}),
    Slider("Temperature above dew point", "F", 0, 40, 1, {"dew_point_spread_f": (0, 100)}),
    Slider("Wind", "mph", 0, 60, 1, {"wind_speed_mph": (0, 100)}),
)


def dry_air(values: Values) -> Values:
    """No rain, and air far from its dew point."""
    return {"dew_point_spread_f": 25.0, "humidity_pct": 40.0, "precipitation_in": 0.0}


SCENARIOS = (Scenario("In dry air", dry_air),)


def board_row(instance: Mapping[str, Any]) -> BoardRow:
    """A window on the board, from the JSON fields of a request."""
    start = datetime.fromisoformat(instance["window_start"]).astimezone(ZoneInfo(LOCAL_ZONE))
    airport = instance["airport"]
    return BoardRow(start, f"{airport} from {start:%H:%M}", (airport, f"{start + WINDOW:%H:%M}"))


def outcome_text(details: Mapping[str, Any]) -> str:
    """What happened, from the details of an outcome."""
    return f"lowest {details['min_visibility_mi']:g} miles"
