"""The picture and the page of a replay."""

import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from monitoring.report import Event, Replay, ReportError, Week, draw, page, png, write_report


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
    )


WEEKS = [
    week("2013-07-01", 0.51, 0.55),
    week("2013-07-08", 0.50, 0.52),
    week("2013-07-15", None, None),
    week("2013-07-22", 0.49, 0.48),
]
EVENTS = [
    Event(at="2013-07-08T00:00:00+00:00", kind="drift", label="calibration"),
    Event(at="2013-07-08T00:00:00+00:00", kind="retrain", label="", reason="calibration: −.06"),
    Event(at="2013-07-08T01:00:00+00:00", kind="promoted", label="v2"),
    Event(at="2013-07-22T00:00:00+00:00", kind="refused", label="v3", reason="worse at <EWR>"),
    Event(at="2013-07-23T00:00:00+00:00", kind="rollback", label="v1"),
]
REPLAY: Replay = {
    "weeks": WEEKS,
    "events": EVENTS,
    "worth": {"difference": -0.0091, "low": -0.0123, "high": -0.0059},
}


def heights(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata(), dtype=np.float64).tolist()


def test_the_panels_show_the_numbers_of_the_weeks() -> None:
    _, log_loss, worth, calibration = draw(REPLAY).axes
    drawn = {line.get_label(): heights(line) for line in log_loss.get_lines()}
    bars = [bar.get_height() for bar in worth.patches if isinstance(bar, Rectangle)]
    unknown = float("nan")
    assert drawn["serving"] == pytest.approx([0.51, 0.50, unknown, 0.49], nan_ok=True)
    assert drawn["frozen"] == pytest.approx([0.55, 0.52, unknown, 0.48], nan_ok=True)
    assert bars == pytest.approx([0.04, 0.02, unknown, -0.01], nan_ok=True)
    gaps = heights(calibration.get_lines()[0])
    assert gaps == pytest.approx([-0.06, -0.06, unknown, -0.06], nan_ok=True)


def test_every_kind_of_event_has_its_lane_and_its_label() -> None:
    marks = draw(REPLAY).axes[0]
    lanes = {label.get_text() for label in marks.get_yticklabels()}
    assert lanes == {"drift called", "retrained", "promoted", "refused", "rolled back"}
    assert {"v1", "v2", "v3"} <= {text.get_text().strip() for text in marks.texts}


def test_labels_that_would_cover_the_next_mark_are_left_out() -> None:
    crowded = [
        Event(at=f"2013-07-{day:02}T00:00:00+00:00", kind="drift", label="calibration")
        for day in (8, 9)
    ]
    marks = draw({"weeks": WEEKS, "events": crowded}).axes[0]
    assert [text.get_text().strip() for text in marks.texts].count("calibration") == 1


def test_the_picture_is_readable_at_900_pixels() -> None:
    pixels = imread(BytesIO(png(REPLAY)))
    assert pixels.shape[1] == 1800 and 1000 < pixels.shape[0] < 1600


def test_the_same_replay_is_the_same_picture() -> None:
    assert png(REPLAY) == png(json.loads(json.dumps(REPLAY)))


def test_a_replay_without_events_or_verdict_is_drawn() -> None:
    assert "<h1>Retrained" in page({"weeks": WEEKS[:1], "events": []})


def test_the_page_stands_alone_and_is_escaped() -> None:
    text = page(REPLAY)
    assert re.findall(r"(?:src|href)=\"(.{5})|url\(|<script|https?:", text) == ["data:"]
    assert "worse at &lt;EWR&gt;" in text and "<EWR>" not in text


def test_the_page_has_a_row_a_week_and_unknown_is_not_zero() -> None:
    text = page(REPLAY)
    assert text.count("<td>6,543</td>") == 4 and "<td>99.7%</td>" in text
    assert "<td>-0.0400</td>" in text
    assert "<td>unknown</td>" in text and "nan" not in text.split("</table>")[0].split("<table>")[1]
    assert "[-0.0123, -0.0059]" in text


def test_both_files_are_written(tmp_path: Path) -> None:
    picture, html = write_report(REPLAY, tmp_path / "reports")
    assert picture.read_bytes().startswith(b"\x89PNG") and html.name == "replay.html"


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ReportError, match="at least one week"):
        draw({"weeks": [], "events": []})
    strange = Event(at="2013-07-08T00:00:00+00:00", kind="party", label="")  # type: ignore[typeddict-item]
    with pytest.raises(ReportError, match=r"an event is one of .*; got \['party'\]"):
        draw({"weeks": WEEKS, "events": [strange]})
