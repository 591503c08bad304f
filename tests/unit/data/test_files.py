"""An atomic write leaves the old file or the new one, never a part."""

from pathlib import Path

import pytest

from ontime.data.files import atomic_write


def test_a_file_and_its_folders_are_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    with atomic_write(path) as temporary:
        temporary.write_text("{}")
        assert not path.exists()
    assert path.read_text() == "{}"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_old_file_and_removes_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as temporary:
        temporary.write_text("ne\ud800", encoding="utf-8")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass  # nothing was written
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
