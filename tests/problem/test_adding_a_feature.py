"""What one more feature costs, measured by adding it to a copy of this repository.

Its declaration, its SQL and a test of a value by hand are the whole change: encoder, network,
online store, request and monitoring follow from the declaration. The checks of the seam then pass
there, and every served value equals the historical join.
"""

import subprocess
from pathlib import Path
from time import perf_counter

import pytest

from infra.fork.clone import clone, git, share_environment
from ontime.settings import ROOT

pytestmark = pytest.mark.slow

FEATURE = "carrier_n_flights_28d"
EDITS = {  # file -> a line of it, and the line that goes before it
    "src/ontime/problem/views.py": (
        '            "carrier_mean_arr_delay_28d_min": DELAY,\n',
        f'            "{FEATURE}": COUNT,\n',
    ),
    "src/ontime/problem/sql/carrier_rates.sql": (
        "    day AS event_timestamp\n",
        f"    sum(n) OVER last_28d AS {FEATURE},\n",
    ),
}
TEST_FILE = "tests/problem/test_view_cases.py"
TEST_NAME = "test_a_carriers_flights_are_counted_for_28_days"
TEST = f"""

def {TEST_NAME}(source: Source) -> None:
    known = one_flight(source, outcome_known_at="2013-01-01 14:30", is_late=True)
    until = datetime(2013, 2, 5, tzinfo=UTC)
    rows = built_by_hand(source, [known, known], "carrier_rates", until)
    assert rows.{FEATURE}.tolist() == [2] * 28
"""
CHECKS = (
    f"{TEST_FILE}::{TEST_NAME}",
    "tests/problem/test_views.py::test_rolling_rates_equal_the_oracle",
    "tests/unit/test_seam.py",
    "tests/integration/test_train_serve_equality.py::"
    "test_every_served_feature_equals_the_training_feature",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one more feature."""
    folder = tmp_path_factory.mktemp("feature") / "copy"
    clone(folder)
    share_environment(folder)
    for name, (line, added) in EDITS.items():
        text = (folder / name).read_text()
        assert text.count(line) == 1, name
        (folder / name).write_text(text.replace(line, added + line))
    with (folder / TEST_FILE).open("a") as file:
        file.write(TEST)
    return folder


def run(folder: Path, *arguments: str) -> str:
    command = [str(folder / ".venv/bin/python"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-1000:]}"
    return done.stdout


def test_a_feature_takes_the_files_and_lines_that_the_documentation_says(copy: Path) -> None:
    listed = [line.split("\t") for line in git(copy, "diff", "--numstat").splitlines()]
    added = {path: int(lines) for lines, _, path in listed}
    assert [line for _, removed, line in listed if removed != "0"] == []
    measured = f"{len(added)} files and {sum(added.values())} lines"
    print(f"one more feature: {measured}, {added}")
    for page in ("rubrics.md", "forking.md"):
        assert measured in (ROOT / "docs" / page).read_text(), f"{page} does not say {measured}"


def test_the_feature_is_an_input_of_the_model_and_the_checks_pass(copy: Path) -> None:
    program = f"from ontime.problem import FEATURE_SPEC; print({FEATURE!r} in FEATURE_SPEC.numeric)"
    assert run(copy, "-c", program).strip() == "True"
    started = perf_counter()
    run(copy, "-m", "ruff", "check", "src", "tests/problem")
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CHECKS)
    print(f"one more feature: {done.splitlines()[-1]}, {perf_counter() - started:.0f} s in all")
