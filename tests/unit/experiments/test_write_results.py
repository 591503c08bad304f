"""The results page and the README's table are written from the reports alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.markdown import table
from experiments.policy_tables import DEFAULT, FROZEN, REFERENCE
from experiments.write_results import BEGIN, COMMANDS, END, PICTURES, write_results

DIFFERENCE = {"difference": -0.0065, "low": -0.011, "high": -0.0024}
COSTS = ("served", "frozen", "lightgbm", "always", "never")
NONE = dict.fromkeys(DIFFERENCE)
SCORES = {"auc": 0.77, "pr_auc": 0.6, "log_loss": 0.4892, "brier": 0.15, "ece": 0.014}
PERIOD = {"start": "2024-05-01T00:00:00+00:00", "end": "2024-08-01T00:00:00+00:00"}


def backtest_rows(month: str) -> list[dict[str, Any]]:
    scores = SCORES | {"month": month, "n": 900.0, "positive_rate": 0.25}
    interval = {"ece_low": 0.01, "ece_high": 0.02}
    return [
        {"model": name} | scores | interval | difference | {"log_loss_of_seeds": [0.4889, 0.4895]}
        for name, difference in (
            ("network", NONE), ("teachers", DIFFERENCE), ("lightgbm", DIFFERENCE),
            ("lightgbm_aggregates", DIFFERENCE | {"log_loss": 0.4777}),
        )
    ]  # fmt: skip


@pytest.fixture
def reports() -> dict[str, Any]:
    seconds = ("redis_pause", "redis_stop", "postgres_pause", "postgres_stop")
    return {
        "demo": {
            "machine": "2 cores, Python 3.12",
            "seconds": {"to_first_prediction": 63.2, "replay": 425.0, "total": 543.0},
            "peak_rss_gb": 3.21,
            "models": {"network": SCORES, "lightgbm": SCORES},
            "serving": {"requests": 3889, "failed": 0, "p50_ms": 56.4, "p99_ms": 118.0},
            "parity": {"checked": 5_228_249, "mismatched": 0},
            "replay": PERIOD
            | {"predictions": 85_709, "outcomes": 85_410, "lost": 0, "doubled": 0}
            | {"retrains": 6, "promotions": 5, "rejections": 1}
            | {"serving_log_loss": 0.4892, "frozen_log_loss": 0.4956, "difference": -0.0065}
            | {"interval": [-0.011, -0.0024], "serving_ece": 0.0147, "frozen_ece": 0.0289}
            | {"cost_per_1000": dict.fromkeys(COSTS, 450.0)},
            "events": [
                {"at": PERIOD["start"], "kind": "retrain", "label": "v2", "reason": "scheduled"}
            ],
        },
        "backtest": {
            "rows": [*backtest_rows("2024-05"), *backtest_rows("all"), *backtest_rows("holdout")],
            "slices": [{"slice": "size", "value": "small"} | row for row in backtest_rows("all")],
        },
        "policies": PERIOD
        | {"models": 22, "training_seconds": 900.0}
        | {
            "rows": [
                SCORES
                | {"period": period, "policy": policy, "cost_per_1000": 450.2}
                | {"trainings": 1, "promoted": 0, "rejected": 0}
                | {"minus_frozen": DIFFERENCE, "minus_reference": DIFFERENCE}
                for period in ("choice", "holdout", "all")
                for policy in (DEFAULT, REFERENCE, FROZEN)
            ],
            "detection": [
                {"rule": "CUSUM", "period": "choice", "false_alarms_per_100_days": 0.81}
                | {"detected": 9, "changes": 10, "median_delay_days": 8.5}
                | {"alarms_of_the_frozen_model": []}
            ],
        },
        "bench": {
            "training": {"log_loss": {"network": 0.551, "lightgbm": 0.552}},
            "ratios": [
                {"what": "training, rows/s", "ours": 300_000.0, "to": "ordinary loop"}
                | {"beside": 30_000.0, "ratio": 10.0, "limit": "at least 5", "kept": True},
                {"what": "to LightGBM's log-loss, s", "ours": None, "to": "LightGBM"}
                | {"beside": 8.0, "ratio": None, "limit": "at most 1", "kept": False},
                {"what": "scoring arrays, rows/s", "ours": 2.0, "to": "LightGBM"}
                | {"beside": 4.0, "ratio": 0.5, "limit": None, "kept": None},
            ],
            "serving": {
                "to_bare": 0.25, "to_naive_feast": 20.4, "to_mlflow_serve": 25.0,
                "p99_to_bare": 5.5, "idle_p50_ms": 3.3, "batch_predictions_per_s": 5100.0,
                "two_workers_to_one": 1.5,
                "rows": [
                    {"server": "ours", "connections": 16, "instances": 1}
                    | {"requests_per_s": 1033.0, "p50_ms": 12.49, "p99_ms": 97.96}
                    | {"cpu_ms_per_request": 0.45}
                ],
            },
        },
        "feature_costs": PERIOD
        | {"version": "2", "rows": 20_000}
        | {
            "groups": [
                {"group": "stored", "features": 7, "log_loss_reduction": 0.0123}
                | {"build_seconds": 1.25, "rows": 26_115, "disk_bytes": 1_500_000}
                | {"online_keys": 3, "online_bytes": 1_600},
                {"group": "request", "features": 4, "log_loss_reduction": 0.01},
                {"group": "intermediate tables", "build_seconds": 2.0},
            ],
            "features": [
                {"feature": "useful", "group": "stored"} | DIFFERENCE | {"low": 0.001},
                {"feature": "idle", "group": "request"} | DIFFERENCE,
            ],
        },
        "export": [{"what": "float32", "mb": 0.5, "rows_per_second": 1e6, "max_difference": 1e-7}],
        "e2e": {
            "up_seconds": 90.1, "rebuild_seconds": 8.0, "ontime-serving_gb": 1.2,
            "ontime-pipelines_gb": 2.3, "recovery_seconds": {"redis": 1.0, "postgres": 2.5},
            "frozen_recovery_seconds": {"redis": 0.2, "postgres": 0.3},
            "full_disk_recovery_seconds": {"redis": 1.5},
            "api_restart_without_registry_seconds": 9.0,
            "up_after_kill_seconds": 40.0, **{f"{name}_503_seconds": 2.0 for name in seconds},
        },
        "attack": {
            "before": {"p50_ms": 3.21, "p99_ms": 9.0, "rss_mb": 800},
            "after": {"p50_ms": 3.3, "p99_ms": 9.1, "rss_mb": 1010},
            "malice": [{"right": True}, {"right": True}],
            "generated": {"requests": 10_345, "failures": []},
            "kills": {"kills": 20, "returned": 3_456, "lost": 0, "doubled": 0, "different": 0},
            "seconds": 1100,
        },
    }  # fmt: skip


@pytest.fixture
def reports_dir(reports: dict[str, Any], tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    for name, report in reports.items():
        (folder / f"{name}.json").write_text(json.dumps(report))
    for picture in PICTURES:
        (folder / picture).write_bytes(picture.encode())
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nText.\n")
    return tmp_path


def test_only_the_table_between_the_marks_of_the_readme_is_replaced(
    reports_dir: Path, root: Path
) -> None:
    write_results(reports_dir, root)
    before, rest = (root / "README.md").read_text().split(BEGIN)
    block, after = rest.split(END)
    assert (before, after) == ("# Title\n\n", "\n\nText.\n")
    lines = block.strip().splitlines()
    assert all(line.startswith("| ") for line in lines) and len(lines) <= 2 + 6
    assert "0.4892 against 0.4956: -0.0065 [-0.0110, -0.0024]" in block
    assert "5,228,249; 0 mismatched" in block and "| 6, 5, 1 |" in block
    assert f"/ {REFERENCE} / frozen | 0.4892 / 0.4892 / 0.4892 |" in block
    assert "(`make backtest`) | 0.4892 against 0.4777: -0.0065 [-0.0110, -0.0024] |" in block
    write_results(reports_dir, root)  # a second run replaces the block again
    assert (root / "README.md").read_text().count("this loop /") == 1


def test_the_page_has_every_table_and_its_pictures(reports_dir: Path, root: Path) -> None:
    write_results(reports_dir, root)
    page = (root / "docs" / "results.md").read_text()
    for text in (
        "| retrain v2 | scheduled |",
        "2024-05 to 2024-05",
        "22 models, one per week, shared by all policies (900 s of training)",
        f"| {FROZEN} | 0.4892 | 0.0140 | 450 | 1 | 0 / 0 | -0.0065 [-0.0110, -0.0024] |",
        "| CUSUM | choice | 0.8 | 9 of 10 | 8.5 | none |",
        "| holdout | 900 | 0.250 |",
        "The holdout months, on which no choice was made:",
        "| network | 0.7700 | 0.6000 | 0.4892 | 0.1500 | 0.0140 [0.0100, 0.0200] "
        "| 0.4889 to 0.4895 |  |",
        "| size: small | 900 | 0.4892 | -0.0065 [-0.0110, -0.0024] | -0.0065 [-0.0110, -0.0024] |",
        "| training, rows/s | 300,000 | 30,000 (ordinary loop) | 10.00 | at least 5 |",
        "| to LightGBM's log-loss, s | never | 8.00 (LightGBM) | never | at most 1: missed |",
        "| scoring arrays, rows/s | 2.00 | 4.00 (LightGBM) | 0.50 |  |",
        "| float32 | 0.50 | 1,000,000 | 1.0e-07 |",
        "| `stored` | 7 | 0.0123 | 1.2 | 26,115 | 1.5 | 3 | 2 |",
        "| `request` | 4 | 0.0100 |  |  |  |  |  |",
        "| `intermediate tables` |  |  | 2.0 |  |  |  |  |",
        "Of 2 features 1 have no benefit above the noise: `idle`.",
        "| throughput against bare FastAPI, 16 connections, SQLite | 0.25 |",
        "| postgres | 2.5 | 0.3 |  |",
        "| redis | 1.0 | 0.2 | 1.5 |",
        "| 10,345, 0 |",
        "| 2, 0 |",
        "| memory of two workers before / after, MB | 800 / 1,010 |",
        "| 20; 3,456 |",
        "| 0, 0, 0 |",
        "| image for serving / for everything else, GB | 1.2 / 2.3 |",
    ):
        assert text in page, text
    for picture in PICTURES:
        assert (root / "docs" / "images" / picture).read_bytes() == picture.encode()
        assert f"(images/{picture})" in page


def drill(name: str, **changes: Any) -> dict[str, Any]:
    """One entry of ``drills.json``."""
    day = "2024-06-{}T00:00:00+00:00".format
    return {
        "name": name,
        "title": f"The {name}",
        "text": "It stops.",
        "kind": "StoppedView",
        "since": day(11), "until": day(14), "noticed_at": day(12),
        "noticed_after_hours": 24.0, "limit_hours": 30, "told": ["a view is missing"],
        "held_back": [day(12), day(13)],
        "events": [{"at": day(15), "kind": "retrain", "label": "v5", "reason": ""}],
        "stale_responses": 2_101, "stale_responses_undisturbed": 12,
        "against": "the undisturbed replay",
        "cost": DIFFERENCE | {"n": 2_712, "per_1000": 460.0, "per_1000_other": 450.0},
    } | changes  # fmt: skip


def test_the_page_of_the_drills_is_written_from_their_report(reports_dir: Path, root: Path) -> None:
    drills = [drill("feed"), drill("regime", kind="ChangedRegime", cost=None, held_back=[])]
    report = {"start": PERIOD["start"], "forked_at": PERIOD["end"], "drills": drills} | {
        "calm": {"days": 71, "alarms": ["2024-07-01: a is missing"]},
        "undisturbed_alerts": [],
    }
    (reports_dir / "drills.json").write_text(json.dumps(report))
    (reports_dir / "drills").mkdir()
    for each in drills:
        (reports_dir / "drills" / f"{each['name']}.png").write_bytes(b"png")

    write_results(reports_dir, root)

    page = (root / "docs" / "drills.md").read_text()
    for text in (
        "| [The feed](#the-feed) | 24 h | 30 h | -0.0065 [-0.0110, -0.0024] |",
        "on each of the 71 days of the data after 1 May 2024, raise 1: 2024-07-01: a is missing.",
        "- **Noticed** after 24 hours, on 12 June 2024 (limit 30 hours).",
        "- **A person is told:** a view is missing.",
        "2,101 responses of the period named a stale feature, 12 in the undisturbed replay.",
        "The scheduled training is held back on 12 June 2024, 13 June 2024.",
        "Models: v5 trained on 15 June 2024.",
        "decisions cost 460 per 1,000 against 450.",
        "(2,712 labelled predictions of the same period",
        "**It cost** nothing that was measured",
        "![The regime](images/drills/regime.png)",
    ):
        assert text in page, text
    assert (root / "docs" / "images" / "drills" / "feed.png").read_bytes() == b"png"


def test_without_a_report_the_page_of_the_drills_stays(reports_dir: Path, root: Path) -> None:
    write_results(reports_dir, root)
    assert not (root / "docs" / "drills.md").exists()


def test_a_cell_that_needs_a_null_is_empty() -> None:
    assert table([{"a": None, "b": 1}], {"a": "{a:.2f}", "b": "{b}"}).endswith("|  | 1 |")


@pytest.mark.parametrize("name", ["demo", "policies", "backtest", "feature_costs", "attack"])
def test_what_has_no_report_stays_as_it_was(name: str, reports_dir: Path, root: Path) -> None:
    write_results(reports_dir, root)
    readme, page = (root / "README.md").read_text(), (root / "docs" / "results.md").read_text()
    (reports_dir / f"{name}.json").unlink()
    write_results(reports_dir, root)
    assert (root / "README.md").read_text() == readme
    assert (root / "docs" / "results.md").read_text() == page


def test_one_of_the_two_benchmarks_of_a_file_may_be_missing(
    reports: dict[str, Any], reports_dir: Path, root: Path
) -> None:
    serving = {"serving": reports["bench"]["serving"]}
    (reports_dir / "bench.json").write_text(json.dumps(serving))
    write_results(reports_dir, root)
    page = (root / "docs" / "results.md").read_text()
    assert "| ours | 16 | 1 | 1,033 | 12.5 | 98.0 | 0.45 |" in page
    assert "Not measured; `make bench` does." in page


def test_a_fault_without_seconds_has_empty_cells(
    reports: dict[str, Any], reports_dir: Path, root: Path
) -> None:
    stack = {k: v for k, v in reports["e2e"].items() if k != "frozen_recovery_seconds"}
    (reports_dir / "e2e.json").write_text(json.dumps(stack))
    write_results(reports_dir, root)
    assert "| redis | 1.0 |  | 1.5 |" in (root / "docs" / "results.md").read_text()


@pytest.mark.parametrize("name", ["demo", "policies", "backtest", "export", "e2e", "attack"])
def test_a_section_that_was_never_measured_names_the_command(
    name: str, reports_dir: Path, root: Path
) -> None:
    (reports_dir / f"{name}.json").unlink()
    write_results(reports_dir, root)
    page = (root / "docs" / "results.md").read_text()
    assert f"Not measured; `{COMMANDS[name]}` does." in page
    assert page.count("Not measured") == 1


@pytest.mark.parametrize("text", ["no marks", f"{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_must_have_each_mark_once(text: str, reports_dir: Path, root: Path) -> None:
    (root / "README.md").write_text(text)
    with pytest.raises(ValueError, match="must have each of the marks"):
        write_results(reports_dir, root)
