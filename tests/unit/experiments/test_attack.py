"""The attack finds what is lost, doubled or different, and its verdict needs every part."""

import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from experiments.attack import Load, compare_with_log, passed
from experiments.fuzzing import generated_requests
from experiments.malice import Target, hostile_requests
from ontime.storage.prediction_log import PredictionLog
from tests.unit.storage.test_prediction_log import NAMES, prediction

GOOD: dict[str, Any] = {
    "before": {"rss_mb": 500},
    "malice": [{"right": True}],
    "generated": {"exit_status": 0, "requests": 10_000, "required": 10_000},
    "after": {"rss_mb": 600},
    "kills": {"lost": 0, "doubled": 0, "different": 0},
}


def returned(request_id: str, **changes: Any) -> dict[str, Any]:
    """A response as the log of `prediction` has it."""
    found = {"prediction_id": f"local:{request_id}-0", "probability": 0.1 + 0.2}
    return {"model_version": "1", "predictions": [found | changes]}


def test_the_log_is_compared_with_what_was_returned(tmp_path: Path) -> None:
    log = PredictionLog(f"sqlite:///{tmp_path}/predictions.db")
    log.migrate()
    for name in ("same", "other", "twice"):
        log.record([prediction(f"local:load-{name}")], NAMES)
    log.record([prediction("local:load-twice", 1)], NAMES)
    log.record([prediction("local:load-unanswered")], NAMES)
    load = Load(Target("http://127.0.0.1:1", "key", "reader"))
    load.responses = {
        "load-same": returned("load-same"),
        "load-other": returned("load-other", probability=0.3),
        "load-twice": returned("load-twice"),
        "load-lost": returned("load-lost"),
    }

    found = compare_with_log(load, log)

    assert (found["returned"], found["lost"], found["doubled"], found["different"]) == (4, 1, 1, 1)
    log.close()


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("kills", "lost", 1),
        ("kills", "doubled", 1),
        ("kills", "different", 1),
        ("generated", "exit_status", 1),
        ("generated", "requests", 9_999),
        ("after", "rss_mb", 1_001),
    ],
)
def test_one_wrong_part_fails_the_attack(part: str, name: str, value: int) -> None:
    report = deepcopy(GOOD)
    assert passed(report)
    report[part][name] = value
    assert not passed(report)
    assert not passed(GOOD | {"malice": [{"right": False}]})


@pytest.mark.parametrize(
    ("outputs", "requests", "rounds"),
    [
        ([(0, "6,000 generated"), (0, "7,000 generated"), (0, "1 generated")], 13_000, 2),
        ([(0, "6,000 generated"), (1, "9 generated\n❌ ST1 found"), (0, "")], 6_009, 2),
        ([(0, "nothing"), (0, "6,000 generated")], 0, 1),
    ],
    ids=["until there are enough", "until something is found", "unless there are none"],
)
def test_rounds_of_generated_requests_go_on(
    outputs: list[tuple[int, str]],
    requests: int,
    rounds: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = []

    def run(command: list[str], **_: Any) -> Any:
        seeds.append(command[command.index("--seed") + 1])
        status, text = outputs[len(seeds) - 1]
        return subprocess.CompletedProcess(command, status, text, "")

    monkeypatch.setattr(subprocess, "run", run)
    target = Target("http://127.0.0.1:1", "key", "reader")
    found = generated_requests(target, 600, 10_000, tmp_path, tmp_path / "log")

    assert (found["requests"], found["rounds"]) == (requests, rounds)
    assert found["exit_status"] == outputs[rounds - 1][0]
    assert (found["failures"] == ["ST1 found"]) == (found["exit_status"] == 1)
    assert len(set(seeds)) == rounds


def test_no_hostile_request_may_be_answered_with_an_error_of_the_server() -> None:
    requests = hostile_requests(Target("http://127.0.0.1:1", "key", "reader"))
    assert not any({500, 502, 504} & right for _, right in requests.values())
