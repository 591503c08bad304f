"""The picture and the page of a replay."""

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ontime.evaluation.bootstrap import Comparison
from simulation.replay_plot import Event, ReplayResult, draw, page, png, write_report
from simulation.weekly_comparison import Week


def week(start: str, serving: float | None, frozen: float | None) -> Week:
    return Week(
        start=f"{start}T00:00:00+00:00",
        champion="1",
        predictions=6543,
        label_coverage=0.997,
        serving_log_loss=serving,
        frozen_log_loss=frozen,
        serving_gap=None if serving is None else -0.02,
        frozen_gap=None if frozen is None else -0.06,
        serving_cost=None if serving is None else 450.0,
        frozen_cost=None if frozen is None else 460.0,
        lightgbm_cost=None if frozen is None else 465.0,
        always_cost=None if serving is None else 700.0,
        never_cost=None if serving is None else 900.0,
    )


WEEKS = [
    week("2024-07-01", 0.51, 0.55),
    week("2024-07-08", 0.50, 0.52),
    week("2024-07-15", None, None),
    week("2024-07-22", 0.49, 0.48),
]
EVENTS = [
    Event(at="2024-07-08T00:00:00+00:00", kind="alert", label="calibration", reason=""),
    Event(at="2024-07-08T00:00:00+00:00", kind="retrain", label="", reason="calibration: −.06"),
    Event(at="2024-07-08T00:30:00+00:00", kind="canary", label="v2 5%", reason=""),
    Event(at="2024-07-08T01:00:00+00:00", kind="promoted", label="v2", reason=""),
    Event(at="2024-07-22T00:00:00+00:00", kind="rejected", label="v3", reason="worse in <b>"),
    Event(at="2024-07-23T00:00:00+00:00", kind="rollback", label="v1", reason=""),
]
RESULT = ReplayResult(WEEKS, EVENTS, Comparison(-0.0091, -0.0123, -0.0059, 1.0))


def heights(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata(), dtype=np.float64).tolist()


def test_the_panels_show_the_scores_of_the_weeks() -> None:
    _, log_loss, difference, calibration = draw(RESULT).axes
    drawn = {line.get_label(): heights(line) for line in log_loss.get_lines()}
    bars = [bar.get_height() for bar in difference.patches if isinstance(bar, Rectangle)]
    unknown = float("nan")
    assert drawn["serving"] == pytest.approx([0.51, 0.50, unknown, 0.49], nan_ok=True)
    assert drawn["frozen"] == pytest.approx([0.55, 0.52, unknown, 0.48], nan_ok=True)
    assert bars == pytest.approx([0.04, 0.02, unknown, -0.01], nan_ok=True)
    biases = heights(calibration.get_lines()[0])
    assert biases == pytest.approx([-0.06, -0.06, unknown, -0.06], nan_ok=True)


def test_every_kind_of_event_has_its_lane_and_its_label() -> None:
    marks = draw(RESULT).axes[0]
    lanes = {label.get_text() for label in marks.get_yticklabels()}
    assert lanes == {
        "performance alert",
        "trained, in shadow",
        "canary",
        "promoted",
        "rejected",
        "rolled back",
    }
    assert {"v1", "v2", "v3"} <= {text.get_text().strip() for text in marks.texts}


def test_a_challenger_has_a_bar_from_its_training_to_its_gate_result() -> None:
    trained = Event(at="2024-07-01T00:00:00+00:00", kind="retrain", label="v2", reason="")
    events = [trained, EVENTS[3], EVENTS[4]]  # v3 was evaluated, and its training is not shown
    marks = draw(replace(RESULT, events=events)).axes[0]
    bars = [np.asarray(line.get_xdata()) for line in marks.lines if line.get_linewidth() == 2.5]
    ((first, last),) = bars
    assert last - first == pytest.approx(7 + 1 / 24)


def test_a_label_that_would_cover_the_next_mark_is_left_out() -> None:
    crowded = [replace_day(EVENTS[0], day) for day in (8, 9)]
    marks = draw(replace(RESULT, events=crowded)).axes[0]
    assert [text.get_text().strip() for text in marks.texts].count("calibration") == 1


def replace_day(event: Event, day: int) -> Event:
    return Event(
        at=f"2024-07-{day:02}T00:00:00+00:00",
        kind=event["kind"],
        label=event["label"],
        reason=event["reason"],
    )


def test_the_picture_is_readable_at_900_pixels() -> None:
    pixels = imread(BytesIO(png(RESULT)))
    assert pixels.shape[1] == 1800 and 1000 < pixels.shape[0] < 1600


def test_the_same_replay_is_the_same_picture() -> None:
    assert png(RESULT) == png(replace(RESULT))


def test_a_replay_without_events_or_labels_is_drawn() -> None:
    text = page(replace(RESULT, weeks=[week("2024-07-01", None, None)], events=[]))
    assert "<h1>Retrained" in text


def test_the_page_needs_no_other_file_and_is_escaped() -> None:
    text = page(RESULT)
    assert re.findall(r"(?:src|href)=\"(.{5})|url\(|<script|https?:", text) == ["data:"]
    assert "worse in &lt;b&gt;" in text and "<b>" not in text


def test_the_page_has_one_row_per_week_and_unknown_is_not_zero() -> None:
    text = page(RESULT)
    assert text.count("<td>6543</td>") == 4 and "<td>0.9970</td>" in text
    assert "<td>-0.0400</td>" in text
    assert "<td>unknown</td>" in text and "nan" not in text.split("</table>")[0].split("<table")[1]
    assert "[-0.0123, -0.0059]" in text


def test_both_files_are_written(tmp_path: Path) -> None:
    picture, html = write_report(RESULT, tmp_path / "reports")
    assert picture.read_bytes().startswith(b"\x89PNG") and html.name == "replay.html"


def test_a_replay_of_less_than_a_week_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a week"):
        replace(RESULT, weeks=[])
