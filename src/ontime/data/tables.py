"""Typed Parquet tables: a schema states grain, keys, units and ranges; pandera enforces it.

Timestamps are UTC with microseconds: Feast's materialization on DuckDB 2 cannot read the
nanoseconds that pandas writes by default.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pyarrow.parquet as pq

from ontime.data.files import atomic_write

TIMESTAMP = "datetime64[us, UTC]"
BATCH_SIZE = 500_000  # rows that are checked at a time, where they may not fit in memory


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
    """A table: its grain ("one row per ..."), its key columns, and the rule of each column."""

    name: str
    grain: str
    keys: tuple[str, ...]
    columns: dict[str, Column]

    @property
    def schema(self) -> pa.DataFrameSchema:
        columns = {name: _pandera_column(column) for name, column in self.columns.items()}
        return pa.DataFrameSchema(columns, strict=True, ordered=True, unique=list(self.keys))


class TableError(ValueError):
    """A table breaks its schema; the message names table, column, rule and the first rows."""


def write_table(rows: pd.DataFrame | Path, table: Table, path: Path) -> int:
    """Check rows against their table and write them as Parquet, atomically; returns their number.

    Args:
        rows: a frame, or a Parquet file that may not fit in memory.

    Raises:
        TableError: if a row breaks the schema; nothing is written.
    """
    if isinstance(rows, Path):
        file = pq.ParquetFile(rows)
        return write_batches(file.schema_arrow, file.iter_batches(BATCH_SIZE), table, path)
    check_table(rows, table)
    written = arrow.Table.from_pandas(rows, preserve_index=False)
    with atomic_write(path) as temporary:
        pq.write_table(written, temporary, compression="zstd")
    return len(rows)


def write_batches(
    schema: arrow.Schema, batches: Iterable[arrow.RecordBatch], table: Table, path: Path
) -> int:
    """Like `write_table` for rows that do not fit in memory; returns their number.

    One batch is in memory at a time, and 8 bytes per row, by which keys that occur twice are found.

    Raises:
        TableError: if a row breaks the schema; nothing is written.
    """
    seen = []
    with atomic_write(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in batches:
                frame = batch.to_pandas()
                check_table(frame, table)
                seen.append(pd.util.hash_pandas_object(frame[list(table.keys)], index=False))
                writer.write_batch(batch)
        hashes = np.concatenate(seen) if seen else np.empty(0, "uint64")
        if twice := len(hashes) - len(np.unique(hashes)):
            raise TableError(
                f"table {table.name} ({table.grain}) breaks its schema; nothing was written:\n"
                f"  keys {', '.join(table.keys)}: unique, broken by {twice} row(s)"
            )
    return len(hashes)


def check_table(frame: pd.DataFrame, table: Table) -> None:
    """Raise `TableError` unless the frame follows its table's schema."""
    try:
        table.schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        raise TableError(_explain(error.failure_cases, frame, table)) from None


def read_tables(folder: str | Path, tables: tuple[Table, ...]) -> dict[str, pd.DataFrame]:
    """The written tables by name. Raises FileNotFoundError if one is missing."""
    return {table.name: read_table(f"{folder}/{table.name}.parquet") for table in tables}


def read_table(path: str | Path) -> pd.DataFrame:
    """One Parquet table, in a folder or on S3. Raises FileNotFoundError if it is missing."""
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        message = f"table {path} is missing: run `make ingest features` first"
        raise FileNotFoundError(message) from None


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
    if pd.api.types.infer_dtype(values) == "string":  # one pass in C
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
