"""The moving picture of the loop shows a week when it is over, and nothing of later ones."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from experiments.loop_picture import difference, frames, newest_decision
from ontime.problem import INSTANCES


def week(day: int, served: float | None, frozen: float | None, n: int = 1000) -> dict[str, Any]:
    start = f"2024-07-{day:02}T00:00:00+00:00"
    scores = {"serving_log_loss": served, "frozen_log_loss": frozen}
    return {"start": start, "predictions": n, "label_coverage": 1.0} | scores


def event(day: int, kind: str, label: str, reason: str = "") -> dict[str, str]:
    return {
        "at": f"2024-07-{day:02}T00:00:00+00:00", "kind": kind, "label": label, "reason": reason
    }  # fmt: skip


WEEKS = [week(1, 0.51, 0.55), week(8, 0.50, 0.49), week(15, 0.49, 0.52), week(22, None, None)]
EVENTS = [
    event(1, "retrain", "v2"),
    event(8, "promoted", "v2", "probability 0.9; log-loss difference -0.01"),
    event(8, "retrain", "v3"),
    event(15, "rejected", "v3", "worse calibrated"),
]
REPORT: dict[str, Any] = {
    "replay": {"start": "2024-07-01T00:00:00+00:00", "end": "2024-07-29T00:00:00+00:00"},
    "weeks": WEEKS,
    "events": EVENTS,
}


def test_there_is_a_frame_for_each_week_with_outcomes_and_each_adds_something() -> None:
    drawn = [np.asarray(picture) for picture in frames(REPORT)]
    assert len(drawn) == 3
    assert {picture.shape for picture in drawn} == {(516, 800, 3)}
    assert all((a != b).any() for a, b in pairwise(drawn))


def test_a_frame_does_not_depend_on_what_happened_later() -> None:
    """Later weeks have the same scores, because the axis covers those of all weeks."""
    later = [event(22, "promoted", "v9", "later"), event(22, "rollback", "v1", "later")]
    first, second, _ = (np.asarray(p) for p in frames(REPORT))
    again = [np.asarray(p) for p in frames(REPORT | {"events": [*EVENTS, *later]})]
    assert (again[0] == first).all() and (again[1] == second).all()
    assert (again[2] != np.asarray(list(frames(REPORT))[2])).any()


def test_weeks_are_weighted_by_their_labels() -> None:
    two = [week(1, 0.5, 0.6, n=3000), week(8, 0.5, 0.5, n=1000)]
    assert difference(two) == f"served minus frozen so far: -0.0750  (4,000 {INSTANCES})"


def test_the_newest_decision_of_the_gate_is_stated_with_its_figures() -> None:
    assert newest_decision(EVENTS[:1]) == "the first challenger scores live traffic in shadow"
    assert newest_decision(EVENTS[:3]) == "v2 promoted: log-loss difference -0.01"
    assert newest_decision(EVENTS) == "v3 rejected: worse calibrated"


def test_a_report_without_an_outcome_has_no_picture() -> None:
    with pytest.raises(ValueError, match="needs a week with outcomes"):
        next(frames(REPORT | {"weeks": WEEKS[3:]}))
