"""The documentation names what exists: files, tests, links, tasks."""

import re
from pathlib import Path

import pytest

from ontime.settings import ROOT

PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "adr").glob("*.md")])
NAMES_FILES = ["interview.md", "rubrics.md"]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)(?:::(\w+))?`")


def exists(name: str) -> bool:
    """A fork replaces the problem and its tests, and writes its own pages about them."""
    return (ROOT / name).exists() or "problem" in Path(name).parts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert [
        link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()
    ] == []


@pytest.mark.parametrize("name", NAMES_FILES)
def test_every_file_and_test_that_is_given_as_evidence_exists(name: str) -> None:
    named = PATH.findall((ROOT / "docs" / name).read_text())
    assert len(named) > 20
    assert [path for path, _ in named if not exists(path)] == []
    tests = [(path, test) for path, test in named if test and "problem" not in Path(path).parts]
    assert [
        f"{path}::{test}" for path, test in tests if f"def {test}(" not in (ROOT / path).read_text()
    ] == []


def test_every_question_of_the_interview_is_numbered_and_answered_with_evidence() -> None:
    text = (ROOT / "docs" / "interview.md").read_text()
    questions = re.split(r"^\*\*(\d+)\. ", text, flags=re.MULTILINE)[1:]
    numbers, answers = questions[::2], questions[1::2]
    assert numbers == [str(i) for i in range(1, len(numbers) + 1)]
    assert len(numbers) >= 25
    assert [a for a in answers if not (PATH.search(a) or LINK.search(a))] == []


def test_every_decision_record_is_listed() -> None:
    folder = ROOT / "docs" / "adr"
    listed = re.findall(r"\]\((0[^)]+)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("0*.md"))
    for name in listed:
        headings = re.findall(r"^## (.+)$", (folder / name).read_text(), re.MULTILINE)
        assert headings == ["Context", "Options", "Decision", "Consequences"]
