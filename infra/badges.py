"""The badges of README.md as SVG files, tests and coverage, from `make test COVERAGE=1`.

    python -m infra.badges FOLDER

CI pushes the folder to the branch `badges`, from which README.md shows them through relative links,
so that a fork has its own badges without an edit. Standard library only.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

LETTER_PX, PADDING_PX = 6.6, 6
GREEN, AMBER, RED = "#2f8f5b", "#b7791f", "#c0392b"
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" \
aria-label="{label}: {value}">
<title>{label}: {value}</title>
<clipPath id="round"><rect width="{width}" height="20" rx="3"/></clipPath>
<g clip-path="url(#round)">
<rect width="{left}" height="20" fill="#555"/>
<rect x="{left}" width="{right}" height="20" fill="{colour}"/>
</g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,Geneva,sans-serif" font-size="11">
<text x="{left_middle}" y="14">{label}</text>
<text x="{right_middle}" y="14">{value}</text>
</g>
</svg>
"""


def badge(label: str, value: str, colour: str) -> str:
    left, right = (round(len(text) * LETTER_PX + 2 * PADDING_PX) for text in (label, value))
    return SVG.format(
        label=label, value=value, colour=colour, width=left + right, left=left, right=right,
        left_middle=left / 2, right_middle=left + right / 2,
    )  # fmt: skip


def badge_of_tests(junit: Path) -> str:
    """Passed and failed tests, from pytest's JUnit file."""
    suites = ElementTree.parse(junit).getroot().iter("testsuite")  # noqa: S314 - pytest wrote it
    n = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        n = {name: count + int(suite.get(name, 0)) for name, count in n.items()}
    failed = n["failures"] + n["errors"]
    passed = n["tests"] - failed - n["skipped"]
    if failed or not passed:
        return badge("tests", f"{failed} failed, {passed} passed", RED)
    return badge("tests", f"{passed:,} passed", GREEN)


def badge_of_coverage(coverage: Path) -> str:
    """Covered lines and branches in percent, rounded down, from `coverage xml`."""
    root = ElementTree.parse(coverage).getroot()  # noqa: S314 - coverage.py wrote it
    found = {name: int(root.attrib[name]) for name in (
        "lines-covered", "lines-valid", "branches-covered", "branches-valid",
    )}  # fmt: skip
    covered = found["lines-covered"] + found["branches-covered"]
    percent = 100 * covered // max(found["lines-valid"] + found["branches-valid"], 1)
    return badge("coverage", f"{percent} %", GREEN if percent >= 90 else AMBER)


def main() -> None:
    folder, results = Path(sys.argv[1]), Path("var/reports")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tests.svg").write_text(badge_of_tests(results / "tests.xml"))
    (folder / "coverage.svg").write_text(badge_of_coverage(results / "coverage.xml"))


if __name__ == "__main__":
    main()
