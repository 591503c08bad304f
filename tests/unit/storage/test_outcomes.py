"""Outcomes on SQLite: the first report is kept, others and corrections are kept beside it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from ontime.storage.outcomes import OutcomeLog
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import OUTCOME_CONTRADICTIONS, OUTCOMES, LoggedOutcome
from tests.unit.storage.test_prediction_log import HOUR, NAMES, TEN, outcome, prediction, served


@pytest.mark.parametrize(
    ("second", "accepted", "duplicates", "contradictions"),
    [
        ([outcome()], 0, 1, 0),
        ([outcome(hours=9)], 0, 1, 0),
        ([outcome(amount=40.0)], 0, 0, 1),
        ([outcome(label=True)], 0, 0, 1),
        ([outcome(1), outcome(1)], 1, 1, 0),
        ([outcome(1, amount=1.0), outcome(1, amount=2.0)], 1, 0, 1),
    ],
    ids=["same", "same, later", "other details", "other label", "twice in one", "both in one"],
)
def test_the_first_report_is_kept(
    log: PredictionLog,
    second: Sequence[LoggedOutcome],
    accepted: int,
    duplicates: int,
    contradictions: int,
) -> None:
    log.record([prediction(), prediction(position=1)], NAMES)
    assert OutcomeLog(log).record([outcome()], "first").accepted == 1

    counts = OutcomeLog(log).record(second, "second")

    assert (counts.accepted, counts.duplicates) == (accepted, duplicates)
    assert (counts.contradictions, len(counts.contradicting)) == (contradictions, contradictions)
    assert counts.newest_accepted == (outcome(1).known_at if accepted else None)
    assert not served(log).label[0]
    assert log.counts()["outcome_contradictions"] == contradictions


def test_outcomes_of_instances_never_predicted_are_counted_and_not_stored(
    log: PredictionLog,
) -> None:
    log.record([prediction("r1"), prediction("r1", 1)], NAMES)
    log.record([prediction("r2")], NAMES)  # the first instance again

    counts = OutcomeLog(log).record([outcome(0), outcome(1), outcome(7), outcome(8)], "reporter")

    assert (counts.accepted, counts.never_predicted) == (2, 2)
    assert log.counts()["outcomes"] == 2
    log.record([prediction("r3", 7)], NAMES)
    assert OutcomeLog(log).record([outcome(7)], "reporter").accepted == 1


def test_a_correction_replaces_an_outcome_and_keeps_both_with_their_reporters(
    log: PredictionLog,
) -> None:
    log.record([prediction()], NAMES)
    outcomes = OutcomeLog(log)
    assert not outcomes.correct(outcome(), "operator"), "there is nothing to correct"
    outcomes.record([outcome()], "reporter")

    assert not outcomes.correct(outcome(hours=7), "operator"), "the same outcome"
    assert outcomes.correct(outcome(label=True, amount=40.0, hours=8), "operator")

    assert served(log).label.tolist() == [True]
    assert served(log, known_by=TEN + 7 * HOUR).label.isna().all()
    (now,) = log.rows(select(OUTCOMES))
    (before,) = log.rows(select(OUTCOME_CONTRADICTIONS))
    assert (now["reporter"], now["details"]) == ("operator", {"amount": 40.0})
    assert (before["reporter"], before["details"]) == ("reporter", {"amount": 3.0})
    assert before["replaced_at"] == now["reported_at"]
    assert outcomes.record([outcome(label=True, amount=40.0)], "reporter").duplicates == 1


def test_concurrent_reports_are_accepted_once(log: PredictionLog) -> None:
    log.record([prediction(position=i) for i in range(200)], NAMES)
    reports = [[outcome(i) for i in range(200)]] * 4

    with ThreadPoolExecutor(4) as reporters:
        counts = list(reporters.map(lambda report: OutcomeLog(log).record(report, "r"), reports))

    assert sum(count.accepted for count in counts) == 200
    assert sum(count.duplicates for count in counts) == 600
    assert sum(count.contradictions for count in counts) == 0
