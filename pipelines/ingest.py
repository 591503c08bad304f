"""Ingest: the year's flights, weather and aircraft as typed Parquet tables in UTC.

python -m pipelines.ingest
"""

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from ontime.settings import Settings
from ontime.source import read_source
from ontime.tables import SOURCE_TABLES, write_table


@task(retries=1)
def write_source_tables() -> dict[str, int]:
    """Read the source, check every table against its schema, write it; the counts of repairs."""
    folder = Settings().tables_dir
    tables, counts = read_source()
    for table in SOURCE_TABLES:
        write_table(tables[table.name], table, folder / f"{table.name}.parquet")
    return {f"{name} rows": len(frame) for name, frame in tables.items()} | counts


@flow(name="ingest")
def ingest() -> dict[str, int]:
    """Write the source tables; how many rows were read, repaired or set aside, by reason."""
    print("ingest")
    counts = write_source_tables()
    for name in ("flights", "weather", "aircraft"):
        print(f"  {counts[f'{name} rows']:>7,} {name}")
    create_table_artifact(
        key="ingested",
        table=[{"what": what, "rows": rows} for what, rows in counts.items()],
        description="Rows read, repaired and set aside",
    )
    return counts


if __name__ == "__main__":
    ingest()
