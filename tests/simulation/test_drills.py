"""Drills in a short form: one day with a stopped feed, and one with another unit.

They fail if monitoring does not notice the incident. `make drills` runs every drill of the problem.
"""

import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from ontime.data.drill_types import ChangedUnit, Drill, Fault, StoppedView
from ontime.models.trainer import TrainConfig
from ontime.problem import DRILLS, DRILLS_START, PREDICTION_INTERVAL
from ontime.registry.champion_history import change_champion
from ontime.storage.decision_log import open_decision_log
from pipelines.build_features import fill_online_store
from pipelines.train import train
from simulation.demo import reset_state
from simulation.drill_plot import write_picture
from simulation.drill_report import drill_report, false_alarms
from simulation.drills import NEVER, check_noticed, data_folder, fork_time, play
from simulation.progress import Progress, progress_file
from tests.conftest import Dataset

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Base:
    """A data folder with a first model, replayed up to `start`."""

    folder: Path
    start: datetime

    def drill(self, kind: type[Fault], lead: timedelta) -> Drill:
        """The problem's drill of a kind, moved to one day after the start.

        Args:
            lead: how long before the start it began.
        """
        drill = next(drill for drill in DRILLS if isinstance(drill.fault, kind))
        since, end = self.start - lead, self.start + DAY
        return replace(drill, since=since, until=end + DAY, end=end)

    def run(self, drill: Drill) -> dict[str, Any]:
        """Its report; its own replay is taken for the undisturbed one."""
        folder = self.folder.with_name(drill.name)
        found = play(self.folder, folder, drill.end, drill)
        with data_folder(folder) as settings:
            return drill_report(settings, drill, found, found)


@pytest.fixture(scope="module")
def base(
    dataset: Dataset, prefect_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Base]:
    start = dataset.start + 41 * DAY
    folder = tmp_path_factory.mktemp("drills") / "base"
    for name in ("tables", "features"):
        shutil.copytree(dataset.settings.data_dir / name, folder / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with (
        pytest.MonkeyPatch.context() as patch,
        data_folder(folder) as settings,
    ):
        patch.setenv("ONTIME_API_URL", url)
        patch.setattr("pipelines.train.TrainConfig", partial(TrainConfig, epochs=1))
        patch.setattr("ontime.models.distillation.LIGHTGBM_ROUNDS", 5)
        # Neither trains a second model nor imports Evidently: no drill here needs it.
        patch.setattr("simulation.drills.MAX_AGE", NEVER)
        patch.setattr("pipelines.monitor.measure_drift", lambda *_: None)
        reset_state(settings)
        fill_online_store.fn(settings, start)
        version = train(start, baselines=("base_rate",))
        decisions = open_decision_log(settings)
        change_champion(settings, decisions, "promotion", version, None, 1, start, ["the first"])
        progress_file(settings).parent.mkdir(parents=True, exist_ok=True)
        Progress.begin(start, start).save(progress_file(settings))
        yield Base(folder, start)


def test_a_stopped_feed_is_noticed_within_a_day(base: Base, tmp_path: Path) -> None:
    drill = base.drill(StoppedView, lead=timedelta(0))
    report = base.run(drill)
    check_noticed([report])
    assert report["noticed_after_hours"] == 24
    assert isinstance(drill.fault, StoppedView)
    assert drill.fault.view in report["told"][0]
    assert report["stale_responses"] > 0
    assert report["cost"]["difference"] == 0, "against itself"
    write_picture(report, tmp_path / "drill.png")
    assert imread(tmp_path / "drill.png").shape[1] == 900
    json.dumps(report, allow_nan=False)


def test_another_unit_is_noticed_within_two_days(base: Base) -> None:
    report = base.run(base.drill(ChangedUnit, lead=DAY))
    check_noticed([report])
    assert "unit" in report["told"][0]
    assert {"unit_changed"} <= {code for row in report["decisions"] for code in row["codes"]}


def test_days_without_an_incident_raise_no_alarm(base: Base) -> None:
    with data_folder(base.folder) as settings:
        calm = false_alarms(settings, base.start)
    assert calm["days"] >= 10 and calm["alarms"] == []


def test_a_drill_that_is_not_noticed_in_time_fails() -> None:
    slow = {"title": "a", "noticed_at": "x", "noticed_after_hours": 25.0, "limit_hours": 24}
    never = {"title": "b", "noticed_at": None, "noticed_after_hours": None, "limit_hours": 24}
    in_time = slow | {"noticed_after_hours": 24.0}
    check_noticed([in_time | {"decisions": []}])
    for report in (slow, never):
        with pytest.raises(AssertionError, match="must be noticed within 24 h"):
            check_noticed([report | {"decisions": []}])


def test_the_drills_of_the_problem_begin_after_undisturbed_weeks() -> None:
    """With fewer, the sequential tests have no spread."""
    forked_at = fork_time(DRILLS)
    assert forked_at - DRILLS_START >= 12 * DAY
    assert len({drill.name for drill in DRILLS}) == len(DRILLS)
    for drill in DRILLS:
        assert forked_at < drill.since < drill.until <= drill.end
        assert (drill.end - DRILLS_START) % PREDICTION_INTERVAL == timedelta(0)
        assert np.isfinite(drill.limit_hours)
