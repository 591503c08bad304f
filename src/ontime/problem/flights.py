"""The id of a flight, and the form of a tail number."""

from datetime import datetime
from zoneinfo import ZoneInfo

from ontime.problem.airports import airport_zones

TAIL_NUMBER_PATTERN = "[A-Z0-9-]{2,10}"


def flight_id(carrier: str, flight: int, origin: str, scheduled_departure: datetime) -> str:
    """The instance id of a flight: local date, carrier, number, origin (2013-05-01-UA-1545-EWR).

    The date is the origin's. With one zone for all airports 2 % of the ids in the United States
    would be those of the next day.
    """
    zone = ZoneInfo(airport_zones()[origin])
    return f"{scheduled_departure.astimezone(zone):%Y-%m-%d}-{carrier}-{flight}-{origin}"
