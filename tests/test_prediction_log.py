"""The prediction log on SQLite: what is written reads back equal, and the first report stands."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.exc import StatementError

from ontime.log_tables import Outcome, Prediction
from ontime.prediction_log import AlreadyAnswered, LogUnavailable, PredictionLog

TEN = datetime(2013, 5, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAMES = ("wind_speed_mph", "slack_min", "n_seats")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    log = PredictionLog(f"sqlite:///{tmp_path}/log/predictions.db")
    yield log
    log.close()


def prediction(request_id: str = "r1", position: int = 0, **changes: Any) -> Prediction:
    values: dict[str, Any] = {
        "trace_id": "t1",
        "request_digest": "d1",
        "flight_id": f"2013-05-01-UA-{position}-EWR",
        "model_version": "1",
        "carrier": "UA",
        "flight": position,
        "origin": "EWR",
        "dest": "IAH",
        "tailnum": None,
        "scheduled_departure": TEN + 2 * HOUR,
        "scheduled_arrival": TEN + 5 * HOUR,
        "as_of": TEN,
        "predicted_at": datetime(2026, 1, 1, tzinfo=UTC),
        "probability_late": 0.1 + 0.2,
        "uncertainty": 0.02,
        "features": np.array([0.1, np.nan, 150], dtype=np.float32),
        "features_missing": ["slack_min"],
        "features_stale": [],
    }
    return Prediction(request_id=request_id, position=position, **(values | changes))


def outcome(flight: int = 0, delay: float | None = 3.0, **changes: Any) -> Outcome:
    values = {"status": "arrived", "arrival_delay_min": delay, "known_at": TEN + 6 * HOUR}
    return Outcome(f"2013-05-01-UA-{flight}-EWR", **(values | changes))


def served(log: PredictionLog, known_by: datetime | None = None) -> Any:
    return log.served(TEN, TEN + HOUR, known_by)


def test_a_prediction_reads_back_equal_to_the_last_bit(log: PredictionLog) -> None:
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((50, 3)) * 10.0 ** rng.integers(-4, 6, (50, 3))).astype("f4")
    features[::7, 1] = np.nan
    log.record([prediction(position=i, features=features[i]) for i in range(50)], NAMES)

    frame = served(log).sort_values("position")

    np.testing.assert_array_equal(frame[list(NAMES)].to_numpy(), features)
    assert frame[list(NAMES)].dtypes.eq(np.float32).all()
    first = frame.iloc[0]
    assert first.probability_late == 0.1 + 0.2
    assert first.as_of == TEN and first.scheduled_arrival == TEN + 5 * HOUR
    assert first.features_missing == ["slack_min"] and first.tailnum is None


def test_the_logged_answer_comes_back_in_the_order_of_the_request(log: PredictionLog) -> None:
    log.record([prediction(position=i, probability_late=i / 20) for i in range(12)], NAMES)

    answer = log.answered("r1")

    assert [row["prediction_id"] for row in answer] == [f"r1-{i}" for i in range(12)]
    assert [row["probability_late"] for row in answer] == [i / 20 for i in range(12)]
    assert log.answered("r2") == []


def test_a_request_is_logged_once_and_whole(log: PredictionLog) -> None:
    log.record([prediction()], NAMES)

    with pytest.raises(AlreadyAnswered):
        log.record([prediction(position=1), prediction(position=0)], NAMES)

    assert [row["prediction_id"] for row in log.answered("r1")] == ["r1-0"]


def test_predictions_of_models_with_other_features_are_read_together(log: PredictionLog) -> None:
    log.record([prediction("old")], NAMES)
    log.record([prediction("new", features=np.array([7], dtype="f4"))], ["wind_speed_mph"])

    wind = served(log).set_index("request_id").wind_speed_mph
    seats = served(log).set_index("request_id").n_seats

    assert wind["old"] == np.float32(0.1) and wind["new"] == 7
    assert seats["old"] == 150 and np.isnan(seats["new"])


@pytest.mark.parametrize(
    ("status", "delay", "late"),
    [
        ("arrived", 14.0, False),
        ("arrived", 15.0, True),
        ("arrived", -20.0, False),
        ("cancelled", None, True),
        ("diverted", None, True),
    ],
)
def test_late_is_15_minutes_or_no_arrival(
    log: PredictionLog, status: str, delay: float | None, late: bool
) -> None:
    log.record([prediction()], NAMES)
    log.record_outcomes([outcome(delay=delay, status=status)])

    assert served(log).is_late.tolist() == [late]


def test_an_outcome_counts_from_the_moment_it_was_known(log: PredictionLog) -> None:
    log.record([prediction()], NAMES)
    log.record_outcomes([outcome(known_at=TEN + 6 * HOUR)])

    assert served(log, known_by=TEN + 5 * HOUR).is_late.isna().all()
    assert served(log, known_by=TEN + 6 * HOUR).is_late.notna().all()
    assert served(log).arrival_delay_min.tolist() == [3.0]


def test_served_takes_the_start_and_leaves_the_end(log: PredictionLog) -> None:
    for hour in range(3):
        log.record([prediction(f"r{hour}", as_of=TEN + hour * HOUR)], NAMES)

    assert log.served(TEN, TEN + 2 * HOUR).request_id.tolist() == ["r0", "r1"]
    assert log.served(TEN + 5 * HOUR, TEN + 6 * HOUR).empty


@pytest.mark.parametrize(
    ("second", "accepted", "duplicates", "contradictions"),
    [
        ([outcome(delay=3.0)], 0, 1, 0),
        ([outcome(delay=3.0, known_at=TEN + 9 * HOUR)], 0, 1, 0),
        ([outcome(delay=40.0)], 0, 0, 1),
        ([outcome(delay=None, status="cancelled")], 0, 0, 1),
        ([outcome(1), outcome(1)], 1, 1, 0),
        ([outcome(1, delay=1.0), outcome(1, delay=2.0)], 1, 0, 1),
    ],
    ids=["repeated", "repeated later", "other delay", "other fate", "twice in one", "torn in one"],
)
def test_the_first_report_stands(
    log: PredictionLog,
    second: Sequence[Outcome],
    accepted: int,
    duplicates: int,
    contradictions: int,
) -> None:
    log.record([prediction(), prediction(position=1)], NAMES)
    assert log.record_outcomes([outcome(delay=3.0)]).accepted == 1

    counts = log.record_outcomes(second)

    assert (counts.accepted, counts.duplicates) == (accepted, duplicates)
    assert (counts.contradictions, len(counts.contradicting)) == (contradictions, contradictions)
    assert served(log).arrival_delay_min.tolist()[0] == 3.0
    assert log.counts()["outcome_contradictions"] == contradictions


def test_outcomes_of_flights_never_predicted_are_kept_and_counted(log: PredictionLog) -> None:
    log.record([prediction("r1"), prediction("r1", 1)], NAMES)
    log.record([prediction("r2")], NAMES)  # the same flight, asked about again

    counts = log.record_outcomes([outcome(0), outcome(1), outcome(7), outcome(8)])

    assert (counts.accepted, counts.never_predicted) == (4, 2)
    assert log.counts()["outcomes"] == 4
    assert log.record_outcomes([outcome(7)]).never_predicted == 0  # a duplicate, counted before


def test_reports_that_race_are_accepted_once(log: PredictionLog) -> None:
    log.counts()
    reports = [[outcome(flight) for flight in range(200)]] * 4

    with ThreadPoolExecutor(4) as reporters:
        counts = list(reporters.map(log.record_outcomes, reports))

    assert sum(count.accepted for count in counts) == 200
    assert sum(count.duplicates for count in counts) == 600
    assert sum(count.contradictions for count in counts) == 0


def test_the_history_says_why_the_version_changed(log: PredictionLog) -> None:
    at = [TEN + i * HOUR for i in range(5)]
    for moment, version in zip(at, ["9", "10", "9", "10"], strict=False):
        assert log.began_serving(version, moment, trained_through=None) == moment

    history = log.history()

    assert [row["version"] for row in history] == ["9", "10", "9", "10"]
    assert [row["reason"] for row in history] == ["start", "promotion", "rollback", "promotion"]
    assert [row["serving_since"] for row in history] == at[:4]
    assert [row["until"] for row in history] == [*at[1:4], None]


def test_a_restart_continues_the_row_of_the_version(log: PredictionLog) -> None:
    log.began_serving("1", TEN, trained_through="2013-05-01")

    assert log.began_serving("1", TEN + HOUR, trained_through="2013-05-01") == TEN
    assert len(log.history()) == 1


def test_shadow_scores_stay_apart_from_what_was_answered(log: PredictionLog) -> None:
    log.record([prediction()], NAMES)
    log.record_shadow("2", ["r1-0"], np.array([0.75]))

    assert log.shadow_scores("2").to_dict() == {"r1-0": 0.75}
    assert log.shadow_scores("3").empty
    assert served(log).probability_late.tolist() == [0.1 + 0.2]


def test_the_last_questions_come_with_every_model_input(log: PredictionLog) -> None:
    for i in range(3):
        at = datetime(2026, 1, 1 + i, tzinfo=UTC)
        log.record([prediction(f"r{i}", carrier=f"C{i}", predicted_at=at)], NAMES)

    questions = log.recent_questions(2)

    assert questions.carrier.tolist() == ["C2", "C1"]
    assert {"carrier", "origin", "dest", *NAMES} <= set(questions.columns)


def test_a_full_disk_is_an_error_and_no_corruption(log: PredictionLog) -> None:
    log.record([prediction("before")], NAMES)
    pages = "PRAGMA max_page_count = 20"  # SQLite then says what it says on a full disk
    event.listen(log.engine, "connect", lambda connection, _: connection.execute(pages))
    log.engine.dispose()

    with pytest.raises(LogUnavailable, match=r"predictions\.db does not work: .*full"):
        log.record([prediction("during", i) for i in range(500)], NAMES)

    assert log.answered("during") == []
    assert len(log.answered("before")) == 1


def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    log = PredictionLog("postgresql+psycopg://nobody:secret@127.0.0.1:1/nothing")

    with pytest.raises(LogUnavailable) as error:
        log.answered("r1")

    assert "secret" not in str(error.value)


def test_a_moment_without_a_zone_is_refused(log: PredictionLog) -> None:
    with pytest.raises(StatementError, match="has a zone"):
        log.record([prediction(as_of=TEN.replace(tzinfo=None))], NAMES)
