"""Parquet files in a folder or on S3: a location is an absolute path, or ``s3://bucket/key``.

pandas, Arrow and Feast take both as text; here is what differs. The AWS SDK reads credentials,
region and endpoint from its own environment variables.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pyarrow import dataset, fs

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def is_on_s3(location: str) -> bool:
    return location.startswith("s3://")


def exists(location: str) -> bool:
    """True if there is a file or a folder."""
    system, path = fs.FileSystem.from_uri(location)
    return bool(system.get_file_info(path).type != fs.FileType.NotFound)


@contextmanager
def local_folder(location: str, scratch: Path) -> Iterator[Path]:
    """Yield the folder in which to write the files of ``location``.

    Of a location on S3 it is a temporary folder in ``scratch``: if the body does not raise, its
    files are uploaded. A reader opens the old object or the new one, because S3 replaces an object
    when its upload is complete.
    """
    if not is_on_s3(location):
        yield Path(location)
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="upload-", dir=scratch) as folder:
        yield Path(folder)
        fs.copy_files(folder, location)


def arrow_dataset(location: str) -> dataset.Dataset:
    """A Parquet file on S3 for DuckDB, whose own reader of S3 is an extension to be downloaded."""
    return dataset.dataset(location, format="parquet")


def register_parquet(db: "DuckDBPyConnection", name: str, location: str) -> None:
    """Let the queries of a connection read Parquet by a name."""
    if is_on_s3(location):
        db.register(name, arrow_dataset(location))
    else:
        db.read_parquet(location).create_view(name)
