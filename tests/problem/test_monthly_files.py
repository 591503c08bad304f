"""The monthly on-time files: what is odd in real ones, and features without weather."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from ontime.data.tables import check_table, read_tables, write_table
from ontime.data.timestamps import column_arrays
from ontime.features.builder import build_features, write_features, written_tables
from ontime.problem import SOURCE_TABLES, VIEWS, Instance, examples, hide_after, read_source
from ontime.problem import request_of as request
from ontime.problem.monthly_files import LEFT_OUT
from ontime.problem.request_features import departure_hour
from tests.problem.published_files import PUBLISHED, row, write_file, write_synthetic

Rows = list[dict[str, Any]]


class Monthly:
    """Writes published files into one folder and reads them as the source."""

    def __init__(self, folder: Path) -> None:
        self.files, self.scratch = folder / "files", folder / "scratch"
        self.counts: dict[str, int] = {}
        self.printed: list[str] = []

    def write(self, rows: Rows, name: str = "2023_1.csv", **options: Any) -> Path:
        return write_file(self.files / name, rows, **options)

    def tables(self) -> dict[str, pd.DataFrame]:
        self.scratch.mkdir()
        found, self.counts = read_source(self.printed.append, str(self.files), self.scratch)
        frames = {n: pd.read_parquet(t) if isinstance(t, Path) else t for n, t in found.items()}
        for table in SOURCE_TABLES:
            check_table(frames[table.name], table)
        return frames

    def flights(self, *rows: dict[str, Any]) -> pd.DataFrame:
        self.write(list(rows))
        return self.tables()["flights"]

    def left_out(self, why: str) -> int:
        return self.counts[f"flights left out: {LEFT_OUT[why]}"]


@pytest.fixture
def monthly(tmp_path: Path) -> Monthly:
    return Monthly(tmp_path)


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def departures(flights: pd.DataFrame) -> list[str]:
    return flights.scheduled_departure.dt.strftime("%Y-%m-%d %H:%M").tolist()


def test_a_published_file_has_109_named_columns_and_a_comma_at_the_end(monthly: Monthly) -> None:
    path = monthly.write([row()])
    assert len(PUBLISHED) == len(set(PUBLISHED)) == 109
    header, line = path.read_text().splitlines()
    assert header.startswith('"Year","Quarter"') and header.endswith('"Div5TailNum",')
    assert line.count(",") == 109 + 2 and line.endswith(",")  # two cities have a comma


def test_a_published_row_becomes_a_flight_in_utc(monthly: Monthly) -> None:
    (flight,) = monthly.flights(row()).to_dict("records")
    assert flight == {
        "flight_id": "2023-01-10-UA-1545-EWR",
        "carrier": "UA",
        "flight": 1545,
        "origin": "EWR",
        "dest": "IAH",
        "departure_hour": 5,
        "tailnum": "N14228",
        "status": "arrived",
        "dep_delay_min": 2,
        "arr_delay_min": 6,
        "is_late": False,
        "scheduled_departure": utc("2023-01-10 10:15"),
        "scheduled_arrival": utc("2023-01-10 14:19"),
        "departed_at": utc("2023-01-10 10:17"),
        "arrived_at": utc("2023-01-10 14:25"),
        "outcome_known_at": utc("2023-01-10 14:25"),
    }


def test_a_zipped_file_reads_as_the_file_in_it(monthly: Monthly, tmp_path: Path) -> None:
    rows = [row(DayofMonth=day, ArrDelay=f"{day}.00") for day in range(1, 29)]
    zipped = Monthly(tmp_path / "zipped")
    zipped.write(rows, "2023_1.zip")
    pd.testing.assert_frame_equal(zipped.tables()["flights"], monthly.flights(*rows))
    assert zipped.printed[0].endswith(" 28 rows of 2023_1.zip")


def test_the_tables_without_a_file_have_no_rows_and_their_columns(monthly: Monthly) -> None:
    monthly.write([row()])
    tables = monthly.tables()
    assert [len(tables[table.name]) for table in SOURCE_TABLES] == [1, 0, 0]


def test_2400_is_the_midnight_that_ends_the_day(monthly: Monthly) -> None:
    flights = monthly.flights(
        row(CRSDepTime="2400", CRSElapsedTime="120.00"),
        row(CRSDepTime="2200", CRSArrTime="2400", CRSElapsedTime=""),
    )
    assert departures(flights) == ["2023-01-11 03:00", "2023-01-11 05:00"]
    assert flights.flight_id.str[:10].tolist() == ["2023-01-10", "2023-01-11"]
    assert flights.departure_hour.tolist() == [22, 0]
    assert flights.scheduled_arrival[0] == utc("2023-01-11 06:00")  # midnight in Houston


def test_without_scheduled_minutes_the_destinations_clock_tells_the_arrival(
    monthly: Monthly,
) -> None:
    times = {"CRSElapsedTime": "", "ArrDelay": "0.00"}
    flights = monthly.flights(
        row(**times),
        row(**times, Flight_Number_Reporting_Airline="2", CRSDepTime="2300", CRSArrTime="0105"),
        row(**times, Flight_Number_Reporting_Airline="3", CRSDepTime="2301", CRSArrTime=""),
    )
    arrivals = flights.scheduled_arrival.dt.strftime("%d %H:%M").tolist()
    assert arrivals == ["10 14:19", "11 07:05"]  # on the next day
    assert monthly.left_out("schedule") == 1


def test_an_airport_without_a_zone_is_left_out_and_counted(monthly: Monthly) -> None:
    flights = monthly.flights(
        row(), row(Origin="QQQ"), row(Dest="QQQ", Flight_Number_Reporting_Airline="2")
    )
    assert len(flights) == 1
    assert monthly.left_out("airport") == 2


def test_of_two_flights_with_one_id_the_earlier_departure_is_kept(monthly: Monthly) -> None:
    later = row(CRSDepTime="2100", Dest="BOS")
    monthly.write([later, row(), row()])
    monthly.write([row()], "again.zip")  # the same month, twice
    flights = monthly.tables()["flights"]
    assert departures(flights) == ["2023-01-10 10:15"]
    assert monthly.left_out("repeated") == 3


def test_a_diverted_flight_is_late_also_if_it_reached_its_destination(monthly: Monthly) -> None:
    diverted = {"Diverted": "1.00", "ArrDelay": ""}
    flights = monthly.flights(
        row(**diverted, DivReachedDest="1.00", DivArrDelay="300.00", ArrTime="1325"),
        row(**diverted, Flight_Number_Reporting_Airline="2", DepDelay="", DepTime=""),
    )
    assert set(flights.status) == {"diverted"} and flights.is_late.all()
    assert flights.arrived_at.isna().all() and flights.arr_delay_min.isna().all()
    assert (flights.outcome_known_at == flights.scheduled_arrival + pd.Timedelta(hours=4)).all()
    assert monthly.counts["flights diverted"] == 2


def test_a_flight_that_was_cancelled_after_it_left_the_gate_has_not_departed(
    monthly: Monthly,
) -> None:
    cancelled = {"Cancelled": "1.00", "CancellationCode": "B", "ArrDelay": ""}
    flights = monthly.flights(
        row(**cancelled, DepDelay="60.00"),
        row(**cancelled, DepDelay="", Flight_Number_Reporting_Airline="2", Tail_Number=""),
    )
    assert set(flights.status) == {"cancelled"} and flights.is_late.all()
    assert flights[["departed_at", "dep_delay_min"]].isna().all(axis=None)
    known_after = flights.outcome_known_at - flights.scheduled_departure
    assert sorted(known_after) == [pd.Timedelta(hours=4), pd.Timedelta(hours=5)]


def test_a_flight_without_an_outcome_is_left_out(monthly: Monthly) -> None:
    assert monthly.flights(row(), row(ArrDelay="", DayofMonth=11)).flight_id.tolist() == [
        "2023-01-10-UA-1545-EWR"
    ]
    assert monthly.left_out("outcome") == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"DepDelay": "-1430.00"}, "early"),  # the delay of another day
        ({"ArrDelay": "-130.00"}, "early"),
        ({"CRSElapsedTime": "40.00", "ArrDelay": "-45.00"}, "early"),
        ({"Flight_Number_Reporting_Airline": "0"}, "number"),
        ({"CRSDepTime": ""}, "schedule"),
        ({"CRSDepTime": "1275"}, "schedule"),
    ],
)
def test_a_flight_that_no_client_could_ask_about_is_left_out(
    monthly: Monthly, changes: dict[str, str], why: str
) -> None:
    assert len(monthly.flights(row(DayofMonth=11), row(**changes))) == 1
    assert monthly.left_out(why) == 1


def test_a_delay_of_two_days_is_set_to_the_longest_and_its_times_are_kept(
    monthly: Monthly,
) -> None:
    (flight,) = monthly.flights(row(DepDelay="2900.00", ArrDelay="2880.00")).itertuples()
    assert (flight.dep_delay_min, flight.arr_delay_min) == (2000, 2000)
    assert flight.arrived_at == flight.scheduled_arrival + pd.Timedelta(days=2)
    assert monthly.counts["flights with a delay of 2,000 minutes or more (set to it)"] == 1


def test_a_month_ends_while_flights_are_in_the_air(monthly: Monthly) -> None:
    """A file has the departures of its local days; their outcomes may be of the next month."""
    last = row(date="2023-01-31", Origin="HNL", Dest="LAX", CRSDepTime="2350", ArrDelay="90.00")
    night = row(date="2023-01-31", CRSDepTime="2359", ArrDelay="700.00")
    monthly.write([last, night], "2023_1.csv")
    monthly.write([row(date="2023-02-01")], "2023_2.zip")
    flights = monthly.tables()["flights"]
    assert flights.flight_id.str[:10].tolist() == ["2023-01-31", "2023-01-31", "2023-02-01"]
    assert departures(flights) == ["2023-02-01 04:59", "2023-02-01 09:50", "2023-02-01 10:15"]
    assert (flights.outcome_known_at > utc("2023-02-01")).all()


def test_an_id_has_the_date_at_the_origin_also_in_the_api(monthly: Monthly) -> None:
    late = {"CRSDepTime": "2230", "Dest": "SEA"}
    flights = monthly.flights(
        *(row(**late, Origin=origin) for origin in ("LAX", "HNL", "ANC", "GUM", "SJU", "ADK"))
    )
    assert set(flights.flight_id.str[:10]) == {"2023-01-10"}
    assert set(flights.departure_hour) == {22}
    assert flights.scheduled_departure.dt.strftime("%d %H:%M").tolist() == [
        "10 12:30", "11 02:30", "11 06:30", "11 07:30", "11 08:30", "11 08:30",
    ]  # fmt: skip
    instances = [Instance.model_validate(request(r)) for r in _requests(flights)]
    assert [each.instance_id for each in instances] == flights.flight_id.tolist()
    hours = departure_hour(column_arrays(flights, ["origin", "scheduled_departure"]))
    assert hours.tolist() == flights.departure_hour.tolist()


def _requests(flights: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = examples({"flights": flights}).to_dict("records")
    return rows


@pytest.mark.parametrize(
    ("origin", "date", "departs", "expected"),
    [
        ("DEN", "2023-03-12", "0130", "2023-03-12 08:30"),
        ("DEN", "2023-03-12", "0230", "2023-03-12 09:30"),  # skipped: 03:30
        ("DEN", "2023-03-12", "0330", "2023-03-12 09:30"),
        ("PHX", "2023-03-12", "0230", "2023-03-12 09:30"),  # no daylight saving time
        ("DEN", "2023-11-05", "0030", "2023-11-05 06:30"),
        ("DEN", "2023-11-05", "0130", "2023-11-05 08:30"),  # twice: the second
        ("IND", "2005-07-01", "0800", "2005-07-01 13:00"),  # Indiana had none until 2006
        ("IND", "2007-07-01", "0800", "2007-07-01 12:00"),
    ],
)
def test_a_departure_is_on_the_origins_clock_when_clocks_change(
    monthly: Monthly, origin: str, date: str, departs: str, expected: str
) -> None:
    flights = monthly.flights(row(Origin=origin, date=date, CRSDepTime=departs))
    assert departures(flights) == [expected]
    (instance,) = [Instance.model_validate(request(each)) for each in _requests(flights)]
    assert instance.instance_id == flights.flight_id[0]


def test_a_flight_through_the_change_of_a_clock_takes_its_scheduled_minutes(
    monthly: Monthly,
) -> None:
    night = {"Origin": "LAX", "Dest": "JFK", "CRSDepTime": "2330", "CRSElapsedTime": "310.00"}
    flights = monthly.flights(
        row(**night, date="2023-03-11", CRSArrTime="0840"),
        row(**night, date="2023-11-04", CRSArrTime="0640"),
    )
    block = flights.scheduled_arrival - flights.scheduled_departure
    assert set(block) == {pd.Timedelta(minutes=310)}


def test_a_tail_number_that_is_none_is_missing(monthly: Monthly) -> None:
    tails = ["N14228", "", "UNKNOW", "000000", "\xd1NKNO\xd1"]
    rows = [
        row(Tail_Number=tail, Flight_Number_Reporting_Airline=str(number))
        for number, tail in enumerate(tails, 1)
    ]
    text = monthly.write(rows).read_text()
    (monthly.files / "2023_1.csv").write_bytes(text.encode("latin-1"))  # as old files are
    flights = monthly.tables()["flights"].sort_values("flight")
    assert flights.tailnum.tolist() == ["N14228", None, None, None, None]
    assert examples({"flights": flights}).eligible.tolist() == [True, False, False, False, False]


def test_without_any_tail_number_every_flight_is_predicted(monthly: Monthly) -> None:
    flights = monthly.flights(row(Tail_Number=""), row(Tail_Number="", DayofMonth=11))
    assert examples({"flights": flights}).eligible.all()


def test_an_earlier_user_of_a_carriers_code_is_another_carrier(monthly: Monthly) -> None:
    flights = monthly.flights(row(Reporting_Airline="PA (1)"), row())
    assert sorted(flights.carrier) == ["PA(1)", "UA"]
    for each in _requests(flights):
        Instance.model_validate(request(each))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize("name", ["2023_1.csv", "2023_1.zip"])
def test_a_file_that_breaks_off_is_an_error_that_names_it(monthly: Monthly, name: str) -> None:
    _cut(monthly.write([row(DayofMonth=day) for day in range(1, 29)], name))
    with pytest.raises(ValueError, match=rf"{name} is not a monthly file as published"):
        monthly.tables()


def test_an_absent_column_is_an_error_that_names_it(monthly: Monthly) -> None:
    monthly.write([row()], names=[name for name in PUBLISHED if name != "CRSDepTime"])
    with pytest.raises(ValueError, match=r"2023_1.csv .* the columns \['CRSDepTime'\] are absent"):
        monthly.tables()


def test_a_folder_without_files_is_an_error(monthly: Monthly) -> None:
    with pytest.raises(ValueError, match=r"ONTIME_SOURCE .* has none"):
        monthly.tables()


@pytest.mark.filterwarnings("ignore:::(moto|werkzeug|botocore).*")
def test_the_files_may_be_in_a_bucket(monthly: Monthly) -> None:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        httpx.put(f"http://{host}:{port}/flights").raise_for_status()
        for name, date in (("2023_1.csv", "2023-01-10"), ("2023_2.zip", "2023-02-10")):
            path = monthly.write([row(date=date)], name)
            httpx.put(f"http://{host}:{port}/flights/raw/{name}", content=path.read_bytes())
        httpx.put(f"http://{host}:{port}/flights/raw/notes.txt", content=b"not a month")
        options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        location = f"s3://key:secret@flights/raw?{options}"
        monthly.scratch.mkdir()
        tables, _ = read_source(monthly.printed.append, location, monthly.scratch)
    finally:
        server.stop()
    assert departures(pd.read_parquet(tables["flights"])) == [
        "2023-01-10 10:15",
        "2023-02-10 10:15",
    ]


# Features without weather and registry, of a month of synthetic files.


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tables of 31 days of 300 flights between 12 airports."""
    root = tmp_path_factory.mktemp("synthetic")
    write_synthetic(root / "files", 31 * 300, days=31, airports=12, zipped=True)
    (root / "scratch").mkdir()
    tables, _ = read_source(lambda _: None, str(root / "files"), root / "scratch")
    for table in SOURCE_TABLES:
        write_table(tables[table.name], table, root / "tables" / f"{table.name}.parquet")
    return root / "tables"


def test_the_features_of_a_source_without_weather_follow_their_schemas(
    month: Path, tmp_path: Path
) -> None:
    n_rows = write_features(written_tables(month), tmp_path, progress=lambda _: None)
    empty = {view.name for view in VIEWS if n_rows[view.name] == 0}
    assert empty == {"origin_weather", "aircraft"} == {v.name for v in VIEWS if v.optional}
    states = pd.read_parquet(tmp_path / "origin_state.parquet")
    assert states.origin.nunique() == 12
    assert states.origin_n_departed_1h.sum() > 8_000


def test_no_feature_of_the_source_depends_on_the_future(month: Path) -> None:
    tables = read_tables(month, SOURCE_TABLES)
    moment, until = datetime(2023, 1, 20, 15, 37, tzinfo=UTC), datetime(2023, 2, 1, tzinfo=UTC)
    hidden = hide_after(tables, moment, timedelta(days=20))
    both = zip(build_features(tables, until), build_features(hidden, until), strict=True)
    for (view, whole), (_, known) in both:
        before, after = (
            rows[rows.event_timestamp <= moment].reset_index(drop=True) for rows in (whole, known)
        )
        pd.testing.assert_frame_equal(before, after, check_exact=True)
        assert len(before) > 0 or view.optional


def test_every_outcome_is_known_after_the_prediction(month: Path) -> None:
    rows = examples(read_tables(month, SOURCE_TABLES))
    assert len(rows) > 9_000
    assert (rows.outcome_known_at > rows.scheduled_departure).all()
    assert 0.1 < rows.label.mean() < 0.6
    assert np.isin(rows.departure_hour, range(24)).all()
