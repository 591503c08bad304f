"""Reports that monitoring wrote, as files: HTML for people, JSON for programs."""

from datetime import UTC, datetime
from pathlib import Path

from starlette.exceptions import HTTPException

from serving.schemas import Report

SUFFIXES = {".html", ".json"}


def list_reports(folder: Path) -> list[Report]:
    """Newest first; names are paths relative to the folder."""
    found = [
        Report(
            name=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            modified_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        )
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and path.is_file()
    ]
    return sorted(found, key=lambda report: report.modified_at, reverse=True)


def find_report(folder: Path, name: str) -> Path:
    """The file of a report.

    Raises:
        HTTPException: 404 for every other name, also of a file outside the folder.
    """
    try:
        path = (folder / name).resolve()
        found = path.is_relative_to(folder.resolve()) and path.suffix in SUFFIXES and path.is_file()
    except (OSError, ValueError):  # the name is too long, or has a null byte
        found = False
    if not found:
        raise HTTPException(404, f"GET /reports lists the reports; {name!r} is not one of them")
    return path
