"""The prediction log on SQLite: rows read back equal."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.exc import StatementError

from ontime.errors import DuplicateRequest, PredictionLogUnavailable
from ontime.problem import EXAMPLE_INSTANCE, Instance
from ontime.storage.outcomes import OutcomeLog
from ontime.storage.prediction_log import TIME_FIELDS, PredictionLog
from ontime.storage.schema import LoggedOutcome, Prediction

TEN = datetime(2024, 5, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAMES = ("f1", "f2", "f3")
INSTANCE = Instance.model_validate(EXAMPLE_INSTANCE)


def prediction(request_id: str = "r1", position: int = 0, **changes: Any) -> Prediction:
    values: dict[str, Any] = {
        "trace_id": "t1",
        "request_digest": "d1",
        "client": "c1",
        "production_traffic": True,
        "outside_training": False,
        "model_seconds": 0.001,
        "instance_id": f"i{position}",
        "model_version": "1",
        "instance": INSTANCE.model_dump(),
        "as_of": TEN,
        "due_at": TEN + 12 * HOUR,
        "predicted_at": datetime(2026, 1, 1, tzinfo=UTC),
        "probability": 0.1 + 0.2,
        "uncertainty": 0.02,
        "decision": True,
        "features": np.array([0.1, np.nan, 150], dtype=np.float32),
        "features_missing": ["f2"],
        "features_stale": [],
        "features_not_yet_known": [],
    }
    return Prediction(request_id=request_id, position=position, **(values | changes))


def outcome(
    position: int = 0, label: bool = False, amount: float = 3.0, hours: int = 6
) -> LoggedOutcome:
    return LoggedOutcome(f"i{position}", label, {"amount": amount}, TEN + hours * HOUR)


def served(log: PredictionLog, known_by: datetime | None = None) -> Any:
    return log.served(TEN, TEN + HOUR, known_by)


def test_a_prediction_reads_back_equal_to_the_last_bit(
    log: PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ontime.storage.prediction_log.ROWS_DECODED_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((50, 3)) * 10.0 ** rng.integers(-4, 6, (50, 3))).astype("f4")
    features[::7, 1] = np.nan
    log.record([prediction(position=i, features=features[i]) for i in range(50)], NAMES)

    frame = served(log).sort_values("position")

    np.testing.assert_array_equal(frame[list(NAMES)].to_numpy(), features)
    assert frame[list(NAMES)].dtypes.eq(np.float32).all()
    first = frame.iloc[0]
    assert first.probability == 0.1 + 0.2 and first.decision
    assert first.as_of == TEN and first.due_at == TEN + 12 * HOUR
    assert first.features_missing == ["f2"]


@pytest.mark.parametrize("mode", ["python", "json"])
def test_the_request_fields_come_back_as_columns(log: PredictionLog, mode: Any) -> None:
    log.record([prediction(instance=INSTANCE.model_dump(mode=mode))], NAMES)

    for frame in (served(log), log.recent_inputs(1)):
        assert {name: frame[name][0] for name in Instance.model_fields} == dict(INSTANCE)
        assert {str(frame[name].dtype) for name in TIME_FIELDS} <= {"datetime64[us, UTC]"}


def test_the_logged_response_has_the_order_of_the_request(log: PredictionLog) -> None:
    log.record([prediction(position=i, probability=i / 20) for i in range(12)], NAMES)

    rows = log.responses(["r1", "r2"])["r1"]

    assert [row["prediction_id"] for row in rows] == [f"r1-{i}" for i in range(12)]
    assert [row["probability"] for row in rows] == [i / 20 for i in range(12)]
    assert log.responses(["r2"]) == {}


def test_a_request_is_logged_once_and_whole(log: PredictionLog) -> None:
    log.record([prediction()], NAMES)

    with pytest.raises(DuplicateRequest):
        log.record([prediction(position=1), prediction(position=0)], NAMES)

    assert [row["prediction_id"] for row in log.responses(["r1"])["r1"]] == ["r1-0"]


def test_predictions_of_models_with_other_features_are_read_together(log: PredictionLog) -> None:
    log.record([prediction("old")], NAMES)
    log.record([prediction("new", features=np.array([7], dtype="f4"))], ["f1"])

    frame = served(log).set_index("request_id")

    assert frame.f1["old"] == np.float32(0.1) and frame.f1["new"] == 7
    assert frame.f3["old"] == 150 and np.isnan(frame.f3["new"])


def test_an_outcome_counts_from_the_time_it_was_known(log: PredictionLog) -> None:
    log.record([prediction()], NAMES)
    OutcomeLog(log).record([outcome(label=True, hours=6)], "reporter")

    assert served(log, known_by=TEN + 5 * HOUR).label.isna().all()
    assert served(log, known_by=TEN + 6 * HOUR).label.tolist() == [True]
    assert served(log).known_at.tolist() == [TEN + 6 * HOUR]


def test_served_includes_the_start_and_excludes_the_end(log: PredictionLog) -> None:
    for hour in range(3):
        log.record([prediction(f"r{hour}", as_of=TEN + hour * HOUR)], NAMES)

    assert log.served(TEN, TEN + 2 * HOUR).request_id.tolist() == ["r0", "r1"]
    nothing = log.served(TEN + 5 * HOUR, TEN + 6 * HOUR)
    assert nothing.empty and set(Instance.model_fields) <= set(nothing.columns)


def test_monitoring_counts_production_traffic_and_each_instance_once(log: PredictionLog) -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    log.record([prediction("test", production_traffic=False, predicted_at=day)], NAMES)
    log.record([prediction("again", probability=0.9, predicted_at=day + 2 * HOUR)], NAMES)
    log.record([prediction("first", probability=0.3, predicted_at=day + HOUR)], NAMES)
    log.record([prediction("other", 1, predicted_at=day)], NAMES)

    counted = log.monitored(TEN, TEN + HOUR, known_by=TEN)

    assert counted.request_id.tolist() == ["first", "other"]
    assert len(served(log)) == 4
    assert log.monitored(TEN + HOUR, TEN + 2 * HOUR, known_by=TEN).empty


def test_shadow_scores_are_separate_from_the_returned_predictions(log: PredictionLog) -> None:
    log.record([prediction()], NAMES)
    log.record_shadow("2", ["r1-0"], np.array([0.75]))

    assert log.shadow_scores("2").to_dict() == {"r1-0": 0.75}
    assert log.shadow_scores("3").empty
    assert served(log).probability.tolist() == [0.1 + 0.2]


def test_recent_inputs_are_the_newest_first(log: PredictionLog) -> None:
    for i in range(3):
        at = datetime(2026, 1, 1 + i, tzinfo=UTC)
        features = np.full(3, i, dtype=np.float32)
        log.record([prediction(f"r{i}", features=features, predicted_at=at)], NAMES)

    assert log.recent_inputs(2).f1.tolist() == [2, 1]


def test_a_full_disk_is_an_error_and_no_corruption(log: PredictionLog) -> None:
    log.record([prediction("before")], NAMES)
    pages = "PRAGMA max_page_count = 40"  # SQLite then raises the error of a full disk
    event.listen(log.engine, "connect", lambda connection, _: connection.execute(pages))
    log.engine.dispose()

    with pytest.raises(PredictionLogUnavailable, match=r"predictions\.db does not work: .*full"):
        log.record([prediction("during", i) for i in range(500)], NAMES)

    assert log.responses(["during", "before"]).keys() == {"before"}


def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    log = PredictionLog("postgresql+psycopg://user:secret@127.0.0.1:1/nothing")

    with pytest.raises(PredictionLogUnavailable) as error:
        log.migrate()

    assert "secret" not in str(error.value)


def test_a_time_without_a_zone_is_rejected(log: PredictionLog) -> None:
    with pytest.raises(StatementError, match="has a time zone"):
        log.record([prediction(as_of=TEN.replace(tzinfo=None))], NAMES)
