"""Reports that monitoring wrote, as files: HTML for people, JSON for programs."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from starlette.exceptions import HTTPException

from serving.schemas import Report

SUFFIXES = {".html", ".json"}
# Evidently's pages are one file with inline scripts. They reach no other address, and the sandbox
# separates them from the API's pages, so that a script in a report cannot call the API.
REPORT_HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
    ),
    "X-Content-Type-Options": "nosniff",
}


def list_reports(folder: Path) -> list[Report]:
    """Newest first; names are paths relative to the folder."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError, ValueError, HTTPException):  # not UTF-8, just deleted, no report
            name = path.relative_to(folder).as_posix()
            name.encode()  # a name that JSON can hold
            status = find_report(folder, name).stat()
            modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
            found.append(Report(name=name, bytes=status.st_size, modified_at=modified_at))
    return sorted(found, key=lambda report: report.modified_at, reverse=True)


def find_report(folder: Path, name: str) -> Path:
    """The file of a report.

    Raises:
        HTTPException: 404 for every other name, also of a file outside the folder.
    """
    try:
        path = (folder / name).resolve()
        found = path.is_relative_to(folder.resolve()) and path.suffix in SUFFIXES and path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, or a loop of links
        found = False
    if not found:
        raise HTTPException(404, f"GET /reports lists the reports; {name!r} is not one of them")
    return path
