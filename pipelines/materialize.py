"""Materialize: build the feature tables, tell Feast about them, fill the online store.

python -m pipelines.materialize --as-of 2013-05-01
"""

import argparse
import warnings
from datetime import UTC, datetime

from prefect import flow, task

from ontime.clock import parse_moment
from ontime.settings import Settings

# The grids reach past the year's last outcome; what is asked about in 2013 is all before it.
GRID_END = datetime(2014, 1, 2, tzinfo=UTC)
BEFORE_DATA = datetime(2012, 12, 31, tzinfo=UTC)


@task
def build_feature_tables() -> dict[str, int]:
    """Every feature view's Parquet table for the whole year; rows a view."""
    from ontime.features.runner import write_features
    from ontime.tables import read_tables

    settings = Settings()
    tables = read_tables(settings.tables_dir)
    return write_features(tables, until=GRID_END, folder=settings.features_dir)


@task
def fill_online_store(as_of: datetime) -> None:
    """Apply the definitions and load the newest row of each key known at ``as_of``.

    The store is emptied first: a row from after ``as_of`` that an earlier replay left behind
    would look into the future. Emptied by dropping the views and not by Feast's ``teardown``: that
    deletes SQLite's file, and an API that has it open reads a malformed database from then on.
    """
    from feature_repo.definitions import DEFINITIONS, FEATURE_VIEWS, FLIGHT_FEATURES
    from ontime.feature_store import open_feature_store

    store = open_feature_store(Settings())
    store.apply(DEFINITIONS)
    store.apply([], objects_to_delete=[FLIGHT_FEATURES, *FEATURE_VIEWS], partial=False)
    store.apply(DEFINITIONS)
    with warnings.catch_warnings():  # of ibis, about itself
        warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
        store.materialize(BEFORE_DATA, as_of)


@flow(name="materialize")
def materialize(as_of: datetime, rebuild: bool = True) -> dict[str, int]:
    """Feature tables and an online store that knows what was known at ``as_of``."""
    print("features")
    rows = build_feature_tables() if rebuild else {}
    fill_online_store(as_of)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_moment, default=parse_moment("2013-05-01"))
    materialize(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
