"""The flights that can be predicted, and the id of a flight."""

from datetime import datetime
from zoneinfo import ZoneInfo

from ontime.problem.definition import LOCAL_ZONE

ZONE = ZoneInfo(LOCAL_ZONE)
# Constants, not read from a table: the API rejects an unknown airport before any table exists. A
# test compares them with the source.
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


def flight_id(carrier: str, flight: int, origin: str, scheduled_departure: datetime) -> str:
    """The instance id of a flight: local date, carrier, number, origin (2013-05-01-UA-1545-EWR)."""
    return f"{scheduled_departure.astimezone(ZONE):%Y-%m-%d}-{carrier}-{flight}-{origin}"
