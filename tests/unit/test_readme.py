"""The README's commands: they are tasks of the Makefile, and CI runs the two it promises."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
THE_TWO = {"demo", "test"}

CODE_BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"^(?:\$ )?make(?: |$)([^#\n]*)", re.MULTILINE)
# Two levels above README.md are GitHub's own pages: workflows, and the branch `badges`.
LINK = re.compile(r"(?:\]\(|src=\")(?!https?:|#|mailto:|\.\./\.\./)([^)#\s\"]+)")


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def makefile() -> str:
    return (ROOT / "Makefile").read_text()


def tasks(makefile: str) -> list[str]:
    return re.findall(r"^([a-z][\w-]*):.* ## ", makefile, re.MULTILINE)


def make_words(text: str) -> list[str]:
    """The words after `make` in the code blocks: tasks and VARIABLE=values."""
    blocks = "\n".join(CODE_BLOCK.findall(text))
    return [word for line in MAKE.findall(blocks) for word in line.split()]


def ci_commands() -> str:
    """Every command CI runs, with `.ci/run` replaced by what is in it."""
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    commands = re.findall(r"^ +(?:- )?run: (.+)$", workflow, re.MULTILINE)
    return "\n".join(commands).replace(".ci/run", (ROOT / ".ci/run").read_text())


def test_the_two_commands_come_first(readme: str) -> None:
    first = [word for word in make_words(readme) if "=" not in word][:2]
    assert set(first) == THE_TWO


@pytest.mark.parametrize("task", sorted(THE_TWO))
def test_ci_runs_the_two_commands(task: str) -> None:
    assert re.search(rf"(?:^|\s)make {task}(?:\s|$)", ci_commands())


def test_every_command_of_the_readme_is_a_task_with_the_variables_it_names(
    readme: str, makefile: str
) -> None:
    variables = re.findall(r"(?:\$\(|option,)([A-Z_]+)", makefile)
    wrong = [
        word
        for word in make_words(readme)
        if word.partition("=")[0] not in (variables if "=" in word else tasks(makefile))
    ]
    assert wrong == []


def test_make_alone_lists_every_task_in_the_order_of_the_file(makefile: str) -> None:
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == tasks(makefile)


def test_every_program_of_the_makefile_exists(makefile: str) -> None:
    modules = re.findall(r"-m ((?:pipelines|simulation|experiments|infra)[\w.]+)", makefile)
    modules += re.findall(r"--factory ([\w.]+):", makefile)
    files = [ROOT / f"{module.replace('.', '/')}.py" for module in modules]
    assert [str(file.relative_to(ROOT)) for file in files if not file.exists()] == []


def test_every_file_the_readme_links_to_exists(readme: str) -> None:
    assert [link for link in LINK.findall(readme) if not (ROOT / link).exists()] == []


def test_the_readme_is_about_two_screens_and_names_no_owner(readme: str) -> None:
    assert len(readme.splitlines()) <= 130
    assert not re.search(r"github\.(?:com|io)", readme)  # a fork's badges and links are its own
    badges = re.findall(r"\((\.\./\.\./[^)]+)\)", readme)
    assert {"../../raw/badges/tests.svg", "../../raw/badges/coverage.svg"} <= set(badges)
    workflows = {name for link in badges for name in re.findall(r"workflows/([\w.]+)", link)}
    assert workflows and all((ROOT / ".github/workflows" / name).exists() for name in workflows)


def test_the_files_of_the_tour_exist_and_are_an_evening_of_code() -> None:
    tour = (ROOT / "docs" / "tour.md").read_text()
    paths = [ROOT / name for name in re.findall(r"`([\w/]+/[\w/.]+\.(?:py|sql|md))`", tour)]
    absent = [path for path in paths if not path.exists()]
    assert [path for path in absent if "problem" not in path.parts] == []  # a fork has its own
    code = {path for path in paths if path.suffix in (".py", ".sql") and "tests" not in path.parts}
    code -= set(absent)
    assert len(code) >= 15
    assert sum(len(path.read_text().splitlines()) for path in code) < 2_600  # as the tour states
