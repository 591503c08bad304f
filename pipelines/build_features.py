"""Build features: write the feature tables, apply Feast's definitions, fill the online store.

python -m pipelines.build_features [--as-of TIME]
"""

import argparse
import warnings
from datetime import datetime
from pathlib import Path

from feast import Entity
from prefect import flow, task

from feature_repo.definitions import definitions
from ontime.data.locations import local_folder
from ontime.data.memory import release_freed_memory
from ontime.data.timestamps import parse_utc
from ontime.features import spark_engine
from ontime.features.builder import materialization_start, write_features, written_tables
from ontime.features.feast_config import open_feature_store
from ontime.problem import DEMO_START
from ontime.settings import Settings


@task
def build_feature_tables(settings: Settings) -> dict[str, int]:
    """Write the Parquet table of every feature view; returns rows per view."""
    if settings.engine == "spark":
        return spark_engine.write_features(settings.tables_dir, Path(settings.features_dir))
    tables = written_tables(settings.tables_dir)
    with local_folder(settings.features_dir, settings.data_dir) as folder:
        return write_features(tables, folder, memory=settings.duckdb_memory)


@task
def fill_online_store(settings: Settings, as_of: datetime) -> None:
    """Apply the definitions and load the newest row of each key that was known at ``as_of``.

    The store is emptied first, because rows of an earlier run may be newer than ``as_of``. Feast's
    ``teardown`` would delete the SQLite file that a running API has open; dropping the views keeps
    it.
    """
    start = materialization_start(settings.features_dir)
    if as_of < start:
        raise ValueError(
            f"the online store is filled as of a time after the first feature row, which is of "
            f"{start}; as_of is {as_of}. Its default is DEMO_START of ontime.problem"
        )
    store = open_feature_store(settings)
    wanted = definitions(settings.features_dir)
    stored = [each for each in wanted if not isinstance(each, Entity)]
    store.apply(wanted)
    store.apply([], objects_to_delete=stored, partial=False)
    store.apply(wanted)
    with warnings.catch_warnings():  # from ibis, about its own call
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
        store.materialize(start, as_of)


@flow(name="build_features")
def build_features(as_of: datetime = DEMO_START) -> dict[str, int]:
    """Feature tables, and an online store as of ``as_of``; returns rows per view."""
    print("features")
    settings = Settings()
    rows = build_feature_tables(settings)
    release_freed_memory()
    fill_online_store(settings, as_of)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_utc, default=DEMO_START)
    build_features(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
