"""The reports of the monitoring, served as they lie: HTML to look at, JSON to decide from."""

from datetime import UTC, datetime
from pathlib import Path

from starlette.exceptions import HTTPException

from serving.schemas import Report

KINDS = {".html", ".json"}


def list_reports(folder: Path) -> list[Report]:
    """Newest first; names are paths below the folder."""
    found = [
        Report(
            name=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            modified_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        )
        for path in folder.rglob("*")
        if path.suffix in KINDS and path.is_file()
    ]
    return sorted(found, key=lambda report: report.modified_at, reverse=True)


def find_report(folder: Path, name: str) -> Path:
    """The file of a report; nothing outside the folder, and nothing but reports.

    Raises:
        HTTPException: 404, whatever the reason: what lies elsewhere is not for asking.
    """
    try:
        path = (folder / name).resolve()
        found = path.is_relative_to(folder.resolve()) and path.suffix in KINDS and path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte in it
        found = False
    if not found:
        raise HTTPException(404, f"a report is one of GET /reports; {name!r} is none")
    return path
