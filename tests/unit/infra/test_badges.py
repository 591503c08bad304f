"""The badges show what the files of pytest and coverage.py say."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from infra.badges import GREEN, RED, badge, badge_of_coverage, badge_of_tests


def junit(folder: Path, **counts: int) -> Path:
    numbers = " ".join(f'{name}="{n}"' for name, n in counts.items())
    path = folder / "tests.xml"
    path.write_text(f"<testsuites><testsuite {numbers}/><testsuite {numbers}/></testsuites>")
    return path


def test_skipped_tests_are_not_counted_as_passed(tmp_path: Path) -> None:
    drawn = badge_of_tests(junit(tmp_path, tests=700, failures=0, errors=0, skipped=50))
    assert "tests: 1,300 passed" in drawn and GREEN in drawn


@pytest.mark.parametrize("counts", [{"failures": 1, "errors": 0}, {"failures": 0, "errors": 1}])
def test_a_failure_is_red(tmp_path: Path, counts: dict[str, int]) -> None:
    drawn = badge_of_tests(junit(tmp_path, tests=10, skipped=0, **counts))
    assert "2 failed, 18 passed" in drawn and RED in drawn


def test_no_test_at_all_is_red(tmp_path: Path) -> None:
    assert RED in badge_of_tests(junit(tmp_path, tests=0))


def test_coverage_counts_branches_and_is_rounded_down(tmp_path: Path) -> None:
    path = tmp_path / "coverage.xml"
    path.write_text(
        '<coverage lines-covered="95" lines-valid="100" branches-covered="44" branches-valid="50"/>'
    )
    assert "coverage: 92 %" in badge_of_coverage(path)


def test_a_badge_is_an_svg_whose_parts_fit_its_width() -> None:
    root = ElementTree.fromstring(badge("tests", "1,234 passed", GREEN))  # noqa: S314
    parts = [float(rect.get("width", 0)) for rect in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert parts[0] == parts[1] + parts[2] == float(root.get("width", 0))
