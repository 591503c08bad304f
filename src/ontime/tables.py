"""Every table's schema, in one place, enforced by pandera whenever a table is written.

Grain, keys, units (in the names) and allowed ranges are stated here; the feature views' tables
are derived from `ontime.features.VIEWS`. Timestamps are UTC with microseconds: Feast's
materialisation on DuckDB 2 cannot read the nanoseconds that pandas writes by default.
"""

from dataclasses import dataclass
from math import inf
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pyarrow.parquet as pq

TIMESTAMP = "datetime64[us, UTC]"


@dataclass(frozen=True)
class Column:
    """``dtype``: string, bool, int32, float32, float64 or timestamp; numbers within low..high."""

    dtype: str
    low: float = -inf
    high: float = inf
    nullable: bool = False
    isin: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table: what one row is, which columns identify it, and what each may hold."""

    name: str
    grain: str
    keys: tuple[str, ...]
    columns: dict[str, Column]

    @property
    def schema(self) -> pa.DataFrameSchema:
        columns = {name: _pandera_column(column) for name, column in self.columns.items()}
        return pa.DataFrameSchema(columns, strict=True, ordered=True, unique=list(self.keys))


class TableError(ValueError):
    """A table breaks its schema. Names table, column, rule and the first offending rows."""


ORIGINS = ("EWR", "JFK", "LGA")

FLIGHTS = Table(
    "flights",
    "one scheduled departure from New York (carrier x flight x local date x origin)",
    ("flight_id",),
    {
        "flight_id": Column("string"),
        "carrier": Column("string"),
        "flight": Column("int32", 1, 9999),
        "origin": Column("string", isin=ORIGINS),
        "dest": Column("string"),
        "tailnum": Column("string", nullable=True),
        "status": Column("string", isin=("arrived", "cancelled", "diverted")),
        "dep_delay_min": Column("float32", -120, 2000, nullable=True),
        "arr_delay_min": Column("float32", -120, 2000, nullable=True),
        "is_late": Column("bool"),
        "scheduled_departure": Column("timestamp"),
        "scheduled_arrival": Column("timestamp"),
        "departed_at": Column("timestamp", nullable=True),
        "arrived_at": Column("timestamp", nullable=True),
        "outcome_known_at": Column("timestamp"),
    },
)
WEATHER = Table(
    "weather",
    "one hourly observation at an origin",
    ("origin", "known_at"),
    {
        "origin": Column("string", isin=ORIGINS),
        "wind_direction_deg": Column("float32", 0, 360, nullable=True),
        "wind_speed_mph": Column("float32", 0, 100, nullable=True),
        "wind_gust_mph": Column("float32", 0, 150, nullable=True),
        "humidity_pct": Column("float32", 0, 100, nullable=True),
        "precipitation_in": Column("float32", 0, 10),
        "visibility_mi": Column("float32", 0, 10),
        "known_at": Column("timestamp"),
    },
)
AIRCRAFT = Table(
    "aircraft",
    "one aircraft of the FAA registry",
    ("tailnum",),
    {
        "tailnum": Column("string"),
        "n_seats": Column("float32", 1, 1000),
        "built_year": Column("float32", 1920, 2013, nullable=True),
    },
)
SOURCE_TABLES = (FLIGHTS, WEATHER, AIRCRAFT)


def write_table(frame: pd.DataFrame, table: Table, path: Path) -> None:
    """Check the frame against its table and write it as Parquet, whole or not at all.

    Raises:
        TableError: if a row breaks the schema; nothing is written.
    """
    check_table(frame, table)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(
        arrow.Table.from_pandas(frame, preserve_index=False), unfinished, compression="zstd"
    )
    unfinished.replace(path)


def check_table(frame: pd.DataFrame, table: Table) -> None:
    """Raise `TableError` unless the frame keeps every rule of its table."""
    try:
        table.schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        raise TableError(_explain(error.failure_cases, frame, table)) from None


def read_tables(folder: Path, tables: tuple[Table, ...] = SOURCE_TABLES) -> dict[str, pd.DataFrame]:
    """The written tables by name.

    Raises:
        FileNotFoundError: if one was never written; the message says what to run.
    """
    return {table.name: read_table(folder / f"{table.name}.parquet") for table in tables}


def read_table(path: Path) -> pd.DataFrame:
    """One Parquet table. Raises FileNotFoundError with the remedy if it is not there."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run `make ingest features` first")
    return pd.read_parquet(path)


def _pandera_column(column: Column) -> pa.Column:
    checks = []
    if column.low > -inf or column.high < inf:
        checks.append(pa.Check.in_range(column.low, column.high))
    if column.isin:
        checks.append(pa.Check.isin(column.isin))
    if column.dtype == "string":  # pandas' object may hold anything
        checks.append(pa.Check(_is_text, name="text"))
    dtype = {"timestamp": TIMESTAMP, "string": "object"}.get(column.dtype, column.dtype)
    return pa.Column(dtype, checks, nullable=column.nullable)


def _is_text(values: pd.Series) -> "bool | pd.Series":
    if pd.api.types.infer_dtype(values) == "string":  # one pass in C; by value only to name them
        return True
    return values.map(lambda value: isinstance(value, str))


def _explain(cases: pd.DataFrame, frame: pd.DataFrame, table: Table) -> str:
    lines = [f"table {table.name} ({table.grain}) breaks its schema; nothing was written:"]
    for (column, check), broken in cases.groupby(["column", "check"], dropna=False, sort=False):
        where = broken["index"].dropna().astype(int)
        lines.append(f"  column {column}: rule {check} broken by {len(broken)} value(s), e.g.")
        lines.append(f"    {broken.failure_case.head(3).tolist()}")
        if len(where):
            rows = frame.loc[where.unique()[:3], [k for k in table.keys if k in frame]]
            lines.append(f"    rows {rows.to_dict('records')}")
    return "\n".join(lines)
