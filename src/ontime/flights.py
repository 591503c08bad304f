"""What is known of a flight before any table exists: its names, its key, and when it is late."""

from datetime import datetime
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
# What can be asked about. Constants, not read from a table: the API refuses an unknown airport
# before any table exists, and a test holds them against the source.
KNOWN_ORIGINS = frozenset({"EWR", "JFK", "LGA"})
KNOWN_CARRIERS = frozenset("9E AA AS B6 DL EV F9 FL HA MQ OO UA US VX WN YV".split())
KNOWN_DESTINATIONS = frozenset(
    """
    ABQ ACK ALB ANC ATL AUS AVL BDL BGR BHM BNA BOS BQN BTV BUF BUR BWI BZN CAE CAK CHO CHS
    CLE CLT CMH CRW CVG DAY DCA DEN DFW DSM DTW EGE EYW FLL GRR GSO GSP HDN HNL HOU IAD IAH ILM
    IND JAC JAX LAS LAX LEX LGA LGB MCI MCO MDW MEM MHT MIA MKE MSN MSP MSY MTJ MVY MYR OAK OKC
    OMA ORD ORF PBI PDX PHL PHX PIT PSE PSP PVD PWM RDU RIC ROC RSW SAN SAT SAV SBN SDF SEA SFO
    SJC SJU SLC SMF SNA SRQ STL STT SYR TPA TUL TVC TYS XNA
    """.split()
)
LATE_MIN = 15  # a flight is late when it arrives this many minutes late, or not at all


def flight_id(carrier: str, flight: int, origin: str, scheduled_departure: datetime) -> str:
    """The key of a flight, e.g. ``2013-05-01-UA-1545-EWR``: its local date, number and origin."""
    return f"{scheduled_departure.astimezone(NEW_YORK):%Y-%m-%d}-{carrier}-{flight}-{origin}"
