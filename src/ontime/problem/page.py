"""The pages' texts, columns, sliders and scenarios for flights."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from ontime.data.page_types import BoardRow, Scenario, Slider, Values
from ontime.problem.definition import LOCAL_ZONE

TEMPLATES_FOLDER = Path(__file__).with_name("templates")
BOARD_TITLE = "Departures"
BOARD_COLUMNS = ("Flight", "From", "To", "Aircraft")
BOARD_WINDOW = timedelta(hours=3)  # an instance is on the board this long after its prediction
DECISION_TEXTS = {True: "late", False: "on time"}
RATE_TEXT = "late"  # "23 % late"

GROUP_NAMES = {
    "origin_weather": "Weather at departure",
    "origin_state": "Delays at the airport now",
    "carrier_origin_state": "The airline's delays now",
    "dest_state": "Delays at the destination now",
    "carrier_dest_state": "The airline's last flights there",
    "carrier_rates": "The airline, last 28 days",
    "route_rates": "The route, last 28 days",
    "flight_rates": "This flight number, last 28 days",
    "origin_hour_rates": "This hour, last 28 days",
    "aircraft_leg": "Where the aircraft is",
    "aircraft": "Type and age of the aircraft",
    "request": "Schedule: hour, weekday, length",
    "dest_events": "The last flights to the destination",
    "flight_events": "The last flights of this number",
    "carrier": "The airline",
    "origin": "The airport of departure",
    "dest": "The destination",
}
FIELD_NAMES = {
    "carrier": "Airline code",
    "flight": "Flight number",
    "origin": "From",
    "dest": "To",
    "tailnum": "Aircraft (tail number)",
    "scheduled_departure": "Scheduled departure",
    "scheduled_arrival": "Scheduled arrival",
}

SLIDERS = (
    Slider("Delay of the aircraft's last flight", "min", -30, 300, 5, {
        "aircraft_delay_min": (-120, 2000),
    }),
    Slider("Time until the aircraft can be back", "min of slack", -120, 600, 10, {
        "aircraft_slack_min": (-720, 1440),
        "aircraft_tight_slack_min": (-90, 150),
    }),
    Slider("Mean delay at the airport, last hour", "min", -10, 180, 5, {
        "origin_mean_dep_delay_1h_min": (-120, 2000),
    }),
    Slider("Wind", "mph", 0, 60, 1, {"wind_speed_mph": (0, 100)}),
    Slider("Visibility", "miles", 0, 10, 0.25, {"visibility_mi": (0, 10)}),
    Slider("Rain or snow, last hour", "inches", 0, 1, 0.01, {"precipitation_in": (0, 10)}),
)  # fmt: skip


def aircraft_on_schedule(values: Values) -> Values:
    """The aircraft's last leg without its delay: it is back that many minutes earlier."""
    delay = max(values.get("aircraft_delay_min") or 0.0, 0.0)
    slack = values.get("aircraft_slack_min")
    if slack is None:
        return {}
    return {
        "aircraft_delay_min": 0.0,
        "aircraft_slack_min": min(slack + delay, 1440.0),
        "aircraft_tight_slack_min": min(max(slack + delay, -90.0), 150.0),
    }


def fair_weather(values: Values) -> Values:
    """A light breeze, ten miles of visibility and no rain."""
    return {
        "wind_speed_mph": 6.0,
        "wind_gust_mph": 6.0,
        "wind_from_north_mph": 0.0,
        "wind_from_east_mph": 6.0,
        "humidity_pct": 50.0,
        "precipitation_in": 0.0,
        "visibility_mi": 10.0,
    }


SCENARIOS = (
    Scenario("Without the aircraft's delay", aircraft_on_schedule),
    Scenario("In fair weather", fair_weather),
)


def board_row(instance: Mapping[str, Any]) -> BoardRow:
    """A flight on the departures board, from the JSON fields of a request."""
    departure = datetime.fromisoformat(instance["scheduled_departure"]).astimezone(
        ZoneInfo(LOCAL_ZONE)
    )
    flight = f"{instance['carrier']} {instance['flight']}"
    return BoardRow(
        moment=departure,
        title=f"{flight}, {instance['origin']} to {instance['dest']}",
        cells=(flight, instance["origin"], instance["dest"], instance["tailnum"] or "unknown"),
    )


def outcome_text(details: Mapping[str, Any]) -> str:
    """What happened, from the details of an outcome."""
    if details["status"] != "arrived":
        return str(details["status"])
    minutes = round(details["arrival_delay_min"] or 0)
    if minutes == 0:
        return "to the minute"
    return f"{minutes} min late" if minutes > 0 else f"{-minutes} min early"
