"""Locations in a folder; those on S3 are tested in ``tests/integration/test_tables_on_s3.py``."""

from pathlib import Path

from ontime.data.locations import exists, local_folder


def test_a_folder_is_written_in_place(tmp_path: Path) -> None:
    location, scratch = str(tmp_path / "tables"), tmp_path / "scratch"
    with local_folder(location, scratch) as folder:
        assert str(folder) == location
    assert not scratch.exists()


def test_a_file_exists_by_its_name_as_it_is(tmp_path: Path) -> None:
    for name in ("a b", "a%20b", "a#b?c", "é", "x.parquet"):
        path = tmp_path / name
        assert not exists(str(path))
        path.touch()
        assert exists(str(path))
