"""Makes two forks of this repository and checks them: `make fork-check`.

- Another problem: examples/visibility replaces the package and the tests of the problem, and
  nothing else. Lint, types, tests and six weeks of demo pass. With --short it is the fast tests and
  two weeks.
- Another name, by `make rename`. Lint, types and the fast tests pass.
"""

import argparse
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from tempfile import mkdtemp

from infra.fork.clone import clone, git, share_environment
from infra.fork.rename import project_name

OVERLAYS = {
    "src/ontime/problem": "examples/visibility/problem",
    "tests/problem": "examples/visibility/tests",
}
WEEKS, SHORT_WEEKS = 6, 2
# The make that runs this one would pass on its flags, and its settings are for its own var.
INHERITED = ("MAKE", "MFLAGS", "ONTIME_", "PREFECT_", "VIRTUAL_ENV")


def check_problem(fork: Path, short: bool) -> None:
    """Another problem in a clone passes the checks, and its loop closes."""
    clone(fork)
    for target, source in OVERLAYS.items():
        shutil.rmtree(fork / target)
        shutil.copytree(fork / source, fork / target)
    git(fork, "add", "--all")
    listed = git(fork, "diff", "--cached", "--numstat", "--no-renames").splitlines()
    changed = [line.split("\t") for line in listed]
    added, removed = (sum(int(numbers[i]) for numbers in changed) for i in (0, 1))
    print(f"another problem: {len(changed)} files, {added} lines added, {removed} removed")
    for target in OVERLAYS:
        files = [path for *_, path in changed if path.startswith(target)]
        print(f"  {target}: {len(files)} files")

    share_environment(fork)
    make(fork, "check" if short else "test")
    weeks = SHORT_WEEKS if short else WEEKS
    start = demo_start(fork)
    make(fork, "replay", f"START={start}", f"END={start + timedelta(weeks=weeks)}")
    report = json.loads((fork / "var/reports/demo.json").read_text())
    mismatched, lost = report["parity"]["mismatched"], report["replay"]["lost"]
    decisions = reasons_of_decisions(fork)
    enough = [reasons for reasons in decisions if "too_few_labels" not in reasons]
    print(
        f"another problem, {weeks} weeks: {report['replay']['predictions']} predictions, {lost} "
        f"lost; {report['parity']['checked']} served features, {mismatched} mismatched; "
        f"{len(decisions)} decisions, {len(enough)} with enough labels"
    )
    assert report["replay"]["predictions"] > 0
    assert report["parity"]["checked"] > 0
    assert mismatched == lost == 0
    assert enough or short, "every decision was held back for lack of labels"


def check_name(fork: Path) -> None:
    """A clone with another name passes the fast checks."""
    clone(fork)
    share_environment(fork)
    make(fork, "rename", f"NAME={project_name(fork)}fork")
    share_environment(fork)
    make(fork, "check")


def make(fork: Path, *arguments: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(INHERITED)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment["ONTIME_API_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}"
    print("fork-check: make", *arguments, flush=True)
    subprocess.run(["make", "--directory", str(fork), *arguments], env=environment, check=True)


def demo_start(fork: Path) -> date:
    program = "from ontime.problem import DEMO_START; print(DEMO_START.date())"
    command = [str(fork / ".venv/bin/python"), "-c", program]
    done = subprocess.run(command, cwd=fork, check=True, capture_output=True, text=True)
    return date.fromisoformat(done.stdout.strip())


def reasons_of_decisions(fork: Path) -> list[set[str]]:
    """The codes of the reasons of each monitoring decision."""
    with sqlite3.connect(fork / "var/log/predictions.db") as log:
        rows = log.execute("SELECT reasons FROM decisions ORDER BY decided_at").fetchall()
    return [{reason["code"] for reason in json.loads(reasons)} for (reasons,) in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fast tests, two weeks of demo")
    arguments = parser.parse_args()
    folder = Path(mkdtemp(prefix="ontime-fork-"))
    try:
        check_name(folder / "name")
        check_problem(folder / "problem", arguments.short)
    except (AssertionError, subprocess.CalledProcessError) as error:
        sys.exit(f"fork-check failed: {error}. The forks are in {folder}")
    shutil.rmtree(folder)
    print("fork-check passed")


if __name__ == "__main__":
    main()
