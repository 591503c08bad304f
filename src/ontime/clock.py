"""The rules of time: when a flight is asked about, and the hourly grid it is asked on.

No function here reads a clock. Whatever depends on "now" takes it as an argument.
"""

from datetime import UTC, datetime, timedelta

import pandas as pd

# A flight is asked about on the hour, two to three hours before it should leave: at a whole hour
# the row that Feast's offline join picks is the very row that the online store holds.
LEAD = timedelta(hours=2)
TICK = timedelta(hours=1)


def prediction_time(scheduled_departure: pd.Series) -> pd.Series:
    """Scheduled departure − 2 h, floored to the hour (UTC): Feast's entity timestamp."""
    return (scheduled_departure - LEAD).dt.floor(TICK)


def parse_moment(text: str) -> datetime:
    """A moment in UTC from ISO 8601; a bare date or a time without an offset is taken as UTC.

    Raises:
        ValueError: if the text is not ISO 8601.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
