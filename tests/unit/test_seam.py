"""No word of the problem appears outside of it: a fork replaces two folders and nothing else.

The words are the names of the problem's tables, columns, fields, features and slices, the values of
its example, its zone and dates of its year, and the nouns in ``tests/problem/words.txt``.
"""

import re
from collections.abc import Iterator

import pytest

from infra.fork.clone import project_files
from ontime.problem import (
    DEMO_START,
    ENTITY_KEYS,
    EXAMPLE_INSTANCE,
    FEATURE_SPEC,
    INSTANCES,
    INTERMEDIATE_TABLES,
    LOCAL_ZONE,
    SLICES,
    SOURCE_TABLES,
    VIEWS,
    Instance,
    Outcome,
)
from ontime.settings import ROOT

PROBLEM = ("src/ontime/problem/", "tests/problem/")
MAY_NAME_THE_PROBLEM = (
    *PROBLEM,
    "examples/",  # another problem
    "docs/",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",  # not our text
    "src/ontime/storage/migrations/versions/",  # a database of an earlier version is upgraded
)
# Names of the problem that are also words of the library.
GENERIC_NAMES = {
    "known_at",  # of an outcome
    "outcome_known_at",  # a column of `ontime.problem.examples`
    "hour", "day", "weekday", "month",  # units of time
    "status",  # of an HTTP response, a run, a process
}  # fmt: skip
GENERIC_PHRASES = {
    "pyarrow/*flight*",  # files of Arrow's RPC library
}


def problem_words() -> list[str]:
    names = {*Instance.model_fields, *Outcome.model_fields, *ENTITY_KEYS, *SLICES}
    names |= {view.name for view in VIEWS}
    names |= {column for table in SOURCE_TABLES for column in table.columns}
    names |= {*FEATURE_SPEC.numeric, *FEATURE_SPEC.categorical, *INTERMEDIATE_TABLES}
    values = {str(value) for value in EXAMPLE_INSTANCE.values()}
    codes = {value for value in values if re.fullmatch(r"[A-Z][A-Z0-9]+", value)}
    nouns = {INSTANCES, *(table.name for table in SOURCE_TABLES)}
    words_file = ROOT / "tests/problem/words.txt"
    nouns |= set(words_file.read_text().splitlines()) if words_file.exists() else set()
    words = names | codes | {LOCAL_ZONE}
    words |= {noun.removesuffix("s") for noun in nouns}
    return sorted(word for word in words if len(word) > 1 and word not in GENERIC_NAMES)


def pattern(words: list[str]) -> re.Pattern[str]:
    """Each word alone, in the plural, or as a part of an identifier; capitals only as capitals."""
    either = "|".join(
        re.escape(word) if word.isupper() else f"(?i:{re.escape(word)}s?)" for word in words
    )
    return re.compile(rf"(?<![A-Za-z0-9])({either})(?![A-Za-z0-9])")


def texts() -> Iterator[tuple[str, str]]:
    for path in project_files(ROOT):
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:  # a picture
            continue
        for phrase in GENERIC_PHRASES:
            text = text.replace(phrase, "")
        # LikeThis becomes Like This, so that each part of a name is a word.
        yield str(path), re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)


def test_no_word_of_the_problem_is_outside_of_it() -> None:
    word = pattern(problem_words())
    found = [
        f"{path}:{number}: {match.group()}"
        for path, text in texts()
        if not path.startswith(MAY_NAME_THE_PROBLEM)
        for number, line in enumerate(text.splitlines(), 1)
        for match in word.finditer(line)
    ]
    assert not found, "\n".join(found)


def test_no_date_of_the_problems_year_is_in_generic_code() -> None:
    """Tests have dates of their own, and a citation's year is followed by no month."""
    dates = date_pattern(DEMO_START.year)
    found = [
        f"{path}: {match.group()}"
        for path, text in texts()
        if path.endswith((".py", ".sql", ".sh", ".yml", ".yaml", ".json"))
        and not path.startswith((*MAY_NAME_THE_PROBLEM, "tests/", "experiments/"))
        for match in dates.finditer(text)
    ]
    assert not found, "\n".join(found)


def date_pattern(year: int) -> re.Pattern[str]:
    return re.compile(rf"(?<!\d){year}(-\d\d|, ?\d)")


@pytest.mark.parametrize(
    ("text", "found"),
    [("since 2001-05", True), ("datetime(2001, 5, 1)", True), ("et al., 2001)", False)],
)
def test_a_date_is_found_and_a_citation_is_not(text: str, found: bool) -> None:
    assert bool(date_pattern(2001).search(text)) == found


def test_the_problem_itself_is_found() -> None:
    word = pattern(problem_words())
    inside = [text for path, text in texts() if path.startswith(PROBLEM[0])]
    assert sum(len(word.findall(text)) for text in inside) > 100


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def n_gates(GateNumber):", ["gates", "Gate"]),
        ("investigate a delegate", []),
        ("code XY_1 in 2001-05, 12001", ["XY", "2001"]),
        ("proxy and xy", []),
        ("Old_Town", ["Old_Town"]),
    ],
)
def test_a_word_is_found_in_names_and_plurals_and_not_in_other_words(
    text: str, found: list[str]
) -> None:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    assert pattern(["2001", "XY", "gate", "Old_Town"]).findall(spaced) == found
