"""Ingest: read the source, check every table against its schema, write it as Parquet in UTC.

python -m pipelines.ingest
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from ontime.data.locations import local_folder
from ontime.data.tables import write_table
from ontime.problem import SOURCE_TABLES, read_source
from ontime.settings import Settings


@task(retries=1)
def write_source_tables(settings: Settings) -> dict[str, int]:
    """Write every source table; returns rows per table ("<table> rows") and per repair."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    # In the data folder, because /tmp is memory on some machines.
    with TemporaryDirectory(prefix="ingest-", dir=settings.data_dir) as scratch:
        tables, counts = read_source(location=settings.source, scratch=Path(scratch))
        with local_folder(settings.tables_dir, Path(scratch)) as folder:
            n_rows = {
                f"{table.name} rows": write_table(
                    tables[table.name], table, folder / f"{table.name}.parquet"
                )
                for table in SOURCE_TABLES
            }
    return n_rows | counts


@flow(name="ingest")
def ingest() -> dict[str, int]:
    """Write the source tables; returns the rows that were read, repaired or left out."""
    print("ingest")
    counts = write_source_tables(Settings())
    for table in SOURCE_TABLES:
        print(f"  {counts[f'{table.name} rows']:>7,} {table.name}")
    create_table_artifact(
        key="ingested",
        table=[{"what": what, "rows": rows} for what, rows in counts.items()],
        description="Rows read, repaired and left out",
    )
    return counts


if __name__ == "__main__":
    ingest()
