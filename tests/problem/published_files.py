"""Monthly on-time files as the Bureau publishes them: a small one by rows, or a synthetic year.

    python -m tests.problem.published_files FOLDER [--flights 7000000] [--year 2023] [--zip]

A synthetic file has the columns and forms of a real one. Its flights repeat a schedule of legs
every day, between airports of which few have most of the traffic; delays are drawn.
"""

import argparse
import csv
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from ontime.problem.airports import airport_zones

DIVERSION = "Airport AirportID AirportSeqID WheelsOn TotalGTime LongestGTime WheelsOff TailNum"
PUBLISHED = [
    *"""
    Year Quarter Month DayofMonth DayOfWeek FlightDate Reporting_Airline DOT_ID_Reporting_Airline
    IATA_CODE_Reporting_Airline Tail_Number Flight_Number_Reporting_Airline OriginAirportID
    OriginAirportSeqID OriginCityMarketID Origin OriginCityName OriginState OriginStateFips
    OriginStateName OriginWac DestAirportID DestAirportSeqID DestCityMarketID Dest DestCityName
    DestState DestStateFips DestStateName DestWac CRSDepTime DepTime DepDelay DepDelayMinutes
    DepDel15 DepartureDelayGroups DepTimeBlk TaxiOut WheelsOff WheelsOn TaxiIn CRSArrTime ArrTime
    ArrDelay ArrDelayMinutes ArrDel15 ArrivalDelayGroups ArrTimeBlk Cancelled CancellationCode
    Diverted CRSElapsedTime ActualElapsedTime AirTime Flights Distance DistanceGroup CarrierDelay
    WeatherDelay NASDelay SecurityDelay LateAircraftDelay FirstDepTime TotalAddGTime LongestAddGTime
    DivAirportLandings DivReachedDest DivActualElapsedTime DivArrDelay DivDistance
    """.split(),
    *(f"Div{number}{part}" for number in range(1, 6) for part in DIVERSION.split()),
]
FILE = "On_Time_Reporting_Carrier_On_Time_Performance_(1987_present)_{year}_{month}"
CARRIERS = "WN DL AA OO UA YX MQ B6 9E OH AS NK YV F9 G4 HA QX".split()
# A flight that arrives on time, as a published row; a test changes single fields.
ROW: dict[str, Any] = {
    "Year": 2023, "Quarter": 1, "Month": 1, "DayofMonth": 10, "DayOfWeek": 2,
    "FlightDate": "2023-01-10", "Reporting_Airline": "UA", "Tail_Number": "N14228",
    "Flight_Number_Reporting_Airline": "1545", "Origin": "EWR", "OriginCityName": "Newark, NJ",
    "Dest": "IAH", "DestCityName": "Houston, TX", "CRSDepTime": "0515", "DepTime": "0517",
    "DepDelay": "2.00", "CRSArrTime": "0819", "ArrTime": "0825", "ArrDelay": "6.00",
    "Cancelled": "0.00", "Diverted": "0.00", "CRSElapsedTime": "244.00", "Flights": "1.00",
}  # fmt: skip


def row(**changes: Any) -> dict[str, Any]:
    """`ROW` with changes; ``date="2023-01-31"`` sets the fields of the date."""
    date = changes.pop("date", ROW["FlightDate"])
    year, month, day = (int(part) for part in date.split("-"))
    return ROW | {"Year": year, "Month": month, "DayofMonth": day, "FlightDate": date} | changes


def write_file(path: Path, rows: Iterable[dict[str, Any]], names: list[str] = PUBLISHED) -> Path:
    """Write rows as a published file, whose lines end in a comma; zipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.with_suffix(".csv")
    with text.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator=",\n")
        writer.writerow(names)
        csv.writer(file, lineterminator=",\n").writerows(
            [each.get(name, "") for name in names] for each in rows
        )
    if path.suffix == ".zip":
        _zip(text)
    return path


def _zip(text: Path) -> None:
    with zipfile.ZipFile(
        text.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as to:
        to.write(text, text.name)
        to.writestr("readme.html", "<p>columns</p>")
    text.unlink()


def write_synthetic(
    folder: Path, flights: int, year: int = 2023, days: int = 365, airports: int = 350,
    zipped: bool = False,
) -> list[Path]:  # fmt: skip
    """Write that many flights of the first days of a year as one file per month."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = sorted(airport_zones())
    chosen = codes[:: len(codes) // airports][:airports]
    zones = [(code, airport_zones()[code]) for code in chosen]
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute("SELECT setseed(0.5)")
        db.execute("SET threads = 1")  # the order of draws
        places = pd.DataFrame(zones, columns=["airport", "zone"])
        db.register("places", places.assign(place=range(len(zones))))
        db.register("lines", pd.DataFrame({"carrier": CARRIERS, "line": range(len(CARRIERS))}))
        values = {"legs": flights // days, "places": len(zones), "lines": len(CARRIERS)}
        db.execute(LEGS_SQL.format(**values))
        months = pd.date_range(f"{year}-01-01", periods=days).month.unique()
        paths = []
        for month in months:
            path = folder / (FILE.format(year=year, month=month) + ".csv")
            body = path.with_suffix(".body")
            columns = ", ".join(f'month."{name}"' if name in ROW else "NULL" for name in PUBLISHED)
            sql = MONTH_SQL.format(year=year, month=month, days=days)
            db.execute(
                f"COPY (SELECT {columns}, NULL FROM ({sql}) AS month) TO '{body}' "
                "(HEADER false, FORMAT csv)"
            )
            with path.open("wb") as to, body.open("rb") as lines:
                to.write((",".join(f'"{name}"' for name in PUBLISHED) + ",\n").encode())
                while block := lines.read(1 << 24):
                    to.write(block)
            body.unlink()
            if zipped:
                _zip(path)
                path = path.with_suffix(".zip")
            paths.append(path)
    return paths


# One row per leg of the daily schedule. Squares and cubes of a uniform draw prefer low numbers.
LEGS_SQL = """
CREATE TABLE legs AS
WITH drawn AS (
    SELECT
        leg,
        (random() * random() * {lines})::INTEGER % {lines} AS line,
        (pow(random(), 3) * {places})::INTEGER % {places} AS here,
        (pow(random(), 3) * {places})::INTEGER % {places} AS there,
        (300 + 5 * floor(random() * 216))::BIGINT AS departs,
        (45 + 5 * floor(random() * 60))::BIGINT AS block
    FROM range({legs}) AS legs(leg)
)
SELECT
    leg, carrier, 1 + leg % 9999 AS flight, a.airport AS origin, b.airport AS dest,
    a.zone AS origin_zone, b.zone AS dest_zone, departs, block, 'N' || (10000 + leg // 4) AS tailnum
FROM drawn
JOIN lines USING (line)
JOIN places AS a ON a.place = here
JOIN places AS b ON b.place = CASE WHEN there = here THEN (there + 1) % {places} ELSE there END
"""
MONTH_SQL = """
WITH flown AS (
    SELECT
        *,
        random() < 0.015 AS is_cancelled,
        random() < 0.0025 AS is_diverted,
        (-5 - 8 * ln(random()) * (random() + (random() < 0.2)::INT * 6) - 8)::BIGINT AS delay
    FROM legs CROSS JOIN (
        SELECT (DATE '{year}-01-01' + day::INTEGER) AS flown_on FROM range({days}) AS days(day)
    )
    WHERE month(flown_on) = {month}
),
timed AS (
    SELECT *, timezone(dest_zone, timezone(origin_zone,
        flown_on::TIMESTAMP + to_minutes(departs)) + to_minutes(block)) AS arrives
    FROM flown
)
SELECT
    year(flown_on) AS "Year", quarter(flown_on) AS "Quarter", month(flown_on) AS "Month",
    day(flown_on) AS "DayofMonth", isodow(flown_on) AS "DayOfWeek", flown_on AS "FlightDate",
    carrier AS "Reporting_Airline",
    CASE WHEN NOT is_cancelled THEN tailnum END AS "Tail_Number",
    flight AS "Flight_Number_Reporting_Airline",
    origin AS "Origin", origin || ', US' AS "OriginCityName", dest AS "Dest",
    dest || ', US' AS "DestCityName",
    format('{{:02d}}{{:02d}}', departs // 60, departs % 60) AS "CRSDepTime",
    NULL AS "DepTime",
    CASE WHEN NOT is_cancelled THEN format('{{}}.00', delay) END AS "DepDelay",
    strftime(arrives, '%H%M') AS "CRSArrTime",
    NULL AS "ArrTime",
    CASE WHEN NOT is_cancelled AND NOT is_diverted THEN format('{{}}.00', delay - 4) END
        AS "ArrDelay",
    format('{{}}.00', is_cancelled::INT) AS "Cancelled",
    format('{{}}.00', (is_diverted AND NOT is_cancelled)::INT) AS "Diverted",
    format('{{}}.00', block) AS "CRSElapsedTime",
    '1.00' AS "Flights"
FROM timed
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--flights", type=int, default=7_000_000)
    parser.add_argument("--year", type=int, default=2023)
    parser.add_argument("--zip", action="store_true")
    options = parser.parse_args()
    for path in write_synthetic(options.folder, options.flights, options.year, zipped=options.zip):
        print(path)


if __name__ == "__main__":
    main()
