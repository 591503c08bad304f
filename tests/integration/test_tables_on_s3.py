"""Source tables and feature tables on S3: every cell is that of the same tables in a folder.

`ONTIME_TABLES_URL` names a prefix in the bucket of an S3 server. Ingest, features, the historical
join, the first fill of the online store and the data of the replay run on both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs

from ontime.data.tables import TableError, read_table, read_tables
from ontime.features.feast_config import open_feature_store
from ontime.features.historical import REQUEST_FIELDS, build_examples, load_requests
from ontime.features.online_store import OnlineFeatures
from ontime.problem import SOURCE_TABLES, VIEWS
from ontime.settings import Settings
from pipelines import ingest
from pipelines.build_features import build_feature_tables, fill_online_store
from pipelines.ingest import write_source_tables
from simulation.replay import ReplayData
from tests.conftest import Dataset, read_online
from tests.integration.conftest import Server

DAY = 35  # of the dataset, at which the online store is filled


@pytest.fixture(scope="module")
def url(s3: Server) -> Iterator[str]:
    """A prefix in the bucket, for clients that are configured by the AWS SDK's variables."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3.env.items():
            environment.setenv(name, value)
        environment.setenv("AWS_ENDPOINT_URL", s3.env["MLFLOW_S3_ENDPOINT_URL"])
        yield "s3://mlflow/tables-of-the-tests"


@dataclass(frozen=True)
class Built:
    """What ingest and features wrote, as their readers return it."""

    settings: Settings
    n_rows: dict[str, int]
    frames: dict[str, pd.DataFrame]


def build(settings: Settings, as_of: datetime) -> Built:
    """Run the flows' tasks, and read their tables in every way in which the project does."""
    n_rows = write_source_tables.fn(settings) | build_feature_tables.fn(settings)
    fill_online_store.fn(settings, as_of)
    store = open_feature_store(settings)
    requests = load_requests(settings)
    examples = build_examples(store, requests)
    now = examples.loc[examples.event_timestamp == pd.Timestamp(as_of), [*REQUEST_FIELDS]]
    assert len(now) > 0
    replay = ReplayData.load(settings, as_of, as_of, as_of + timedelta(days=2))
    frames = read_tables(settings.tables_dir, SOURCE_TABLES)
    for view, rows in replay.features:
        frames[view.name] = read_table(f"{settings.features_dir}/{view.name}.parquet")
        frames[f"{view.name} replayed"] = rows
    served = read_online(OnlineFeatures(store), now, as_of)
    frames |= {"requests": requests, "examples": examples, "served": served.frame}
    return Built(settings, n_rows, frames)


@pytest.fixture(scope="module")
def both(
    dataset: Dataset, url: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Built, Built]:
    """The dataset's tables, built in a folder and on S3."""
    folder, as_of = tmp_path_factory.mktemp("both"), dataset.start + timedelta(days=DAY, hours=12)
    with pytest.MonkeyPatch.context() as source:
        source.setattr(ingest, "read_source", lambda **_: (dataset.tables, {}))
        return (
            build(Settings(data_dir=folder / "local"), as_of),
            build(Settings(data_dir=folder / "remote", tables_url=url), as_of),
        )


def objects(url: str) -> dict[str, int]:
    """Path in the bucket -> size."""
    system, path = fs.FileSystem.from_uri(url)
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {each.path: each.size for each in found if each.is_file}


def test_every_cell_on_s3_is_that_of_the_folder(both: tuple[Built, Built]) -> None:
    local, remote = both
    assert local.n_rows == remote.n_rows
    assert local.frames.keys() == remote.frames.keys()
    assert sum(frame.size for frame in local.frames.values()) > 100_000
    for name, frame in local.frames.items():
        pd.testing.assert_frame_equal(frame, remote.frames[name], check_exact=True, obj=name)


def test_no_table_on_s3_is_also_in_the_data_folder(both: tuple[Built, Built], url: str) -> None:
    _, remote = both
    assert {path.name for path in remote.settings.data_dir.iterdir()} == {"feast"}
    names = {f"tables/{table.name}" for table in SOURCE_TABLES}
    names |= {f"features/{view.name}" for view in VIEWS}
    prefix = url.removeprefix("s3://")
    assert objects(url).keys() == {f"{prefix}/{name}.parquet" for name in names}


def test_a_failed_check_uploads_nothing(
    dataset: Dataset, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = SOURCE_TABLES[-1].name  # those before it are finished
    twice = pd.concat([dataset.tables[last]] * 2, ignore_index=True)
    monkeypatch.setattr(ingest, "read_source", lambda **_: (dataset.tables | {last: twice}, {}))
    settings = Settings(data_dir=tmp_path, tables_url=f"{url}-broken")
    with pytest.raises(TableError, match=last):
        write_source_tables.fn(settings)
    assert objects(settings.tables_url) == {}
    assert list(tmp_path.iterdir()) == []


def test_tables_that_are_not_there_are_named(url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, tables_url=f"{url}-empty")
    first = f"{settings.tables_dir}/{SOURCE_TABLES[0].name}.parquet"
    for read in (load_requests, build_feature_tables.fn):
        with pytest.raises(FileNotFoundError, match=f"table {first} is missing"):
            read(settings)
    with pytest.raises(FileNotFoundError, match=f"no feature table in {settings.features_dir}"):
        fill_online_store.fn(settings, datetime.max.replace(tzinfo=UTC))
