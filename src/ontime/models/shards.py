"""Training on more rows than memory holds, from shards: the Parquet files of a folder.

    write_shard(path, rows, targets, FEATURE_SPEC)                       # any number of files
    model, history = fit_shards(folder, FEATURE_SPEC, TrainConfig(), device="auto")

A shard holds the model's inputs and the soft targets, one column ``target_0`` and on per output
head. The loop, the network and the schedule are those of `ontime.models.trainer`.

- Statistics: DuckDB reads each column once. The encoder is fitted to the column's `QUANTILES` exact
  quantiles, for which one column and its sorted copy are in memory, 8 bytes per row. Rank 0
  computes them.
- Order: the unit is a row group. Every epoch assigns all of them to the processes in a new random
  order, and each process mixes the rows of `POOL_ROWS` before it cuts batches, so that no batch
  depends on how the rows are sorted or distributed over files.
- Memory: two pools of `POOL_ROWS`, each with one more row group at most; a thread reads ahead.
- torchrun: a process reads its own row groups only. Batches are therefore other ones than those of
  one process, and the models are equal up to the noise of another seed.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor

from ontime.features.spec import FeatureSpec
from ontime.models.distributed import broadcast_from_rank0, rank_and_size
from ontime.models.dropout import FeatureGroupDropout, unit_dropout
from ontime.models.preprocessing import Encoder, encoder_inputs
from ontime.models.serialization import TrainedModel
from ontime.models.trainer import (
    Batch,
    EpochRecord,
    Step,
    TrainConfig,
    TrainingError,
    assemble,
    check_divisible,
    encode,
    pick_device,
    print_epochs,
    run_epochs,
)

QUANTILES = 4_001  # a step of 1 / 4,000: 16 of them are below the encoder's RANK_CLIP of 0.004
GROUP_ROWS = 8_192  # of a written row group: small enough to be divided evenly among many processes
POOL_ROWS = 65_536  # 85 MB of 215 encoded features in bf16


@dataclass(frozen=True)
class RowGroup:
    """One row group of a Parquet file; `rows` is read from the file's footer."""

    path: Path
    index: int
    rows: int


def write_shard(path: Path, rows: pd.DataFrame, targets: np.ndarray, spec: FeatureSpec) -> None:
    """Write the model's inputs of ``rows`` [n] with ``targets`` [n, k] as one shard."""
    inputs = pyarrow.Table.from_pandas(
        rows[[*spec.numeric, *spec.categorical]], preserve_index=False
    )
    for name, column in zip(target_columns(targets.shape[1]), targets.T, strict=True):
        inputs = inputs.append_column(name, pyarrow.array(column.astype(np.float32)))
    pyarrow.parquet.write_table(inputs, path, row_group_size=GROUP_ROWS)


def fit_shards(
    folder: Path, spec: FeatureSpec, config: TrainConfig, device: str = "auto"
) -> tuple[TrainedModel, list[EpochRecord]]:
    """A network fitted to the targets in the shards of ``folder``.

    Raises:
        TrainingError: if the device does not exist, a column is absent, a target is no probability,
            or a process would have no batch.
    """
    model = broadcast_from_rank0(lambda: build_model(folder, spec, config))
    model.network.to(pick_device(device))
    history = print_epochs(train_epochs(model, folder, config))
    model.network.eval().cpu()
    return model, history


def build_model(folder: Path, spec: FeatureSpec, config: TrainConfig) -> TrainedModel:
    """A network with random weights, and the encoder and vocabularies of all shards."""
    paths = {group.path for group in row_groups(folder, [*spec.numeric, *spec.categorical])}
    levels = np.linspace(0, 1, QUANTILES)
    inputs, index = encoder_inputs(spec)
    numeric = np.full((QUANTILES, len(inputs)), np.nan, dtype=np.float32)
    vocabularies = {}
    with duckdb.connect() as db:
        shards = db.read_parquet(
            [str(path) for path in sorted(paths)], hive_partitioning=False, file_row_number=True
        )
        for j, names in enumerate(inputs):
            columns = ", ".join(f'"{name}"' for name in names)
            value = f"[{columns}][file_row_number % {len(names)} + 1]"
            column = shards.project(f"{value} AS value").filter("isfinite(value)").fetchnumpy()
            known = np.sort(column["value"])  # DuckDB takes a second for so many quantiles
            if len(known):
                places = np.ceil(levels * len(known)).astype(int) - 1
                numeric[:, j] = known[places.clip(0)]
        for name in spec.categorical:
            values = shards.project(f'"{name}"::VARCHAR').distinct().fetchall()
            vocabularies[name] = sorted(value for (value,) in values if value is not None)
    return assemble(Encoder.fit(numeric).repeated(index), vocabularies, spec, config)


def train_epochs(model: TrainedModel, folder: Path, config: TrainConfig) -> Iterator[EpochRecord]:
    """Train the model in place on its device; yields after each epoch."""
    rank, n_processes = rank_and_size()
    targets = target_columns(config.network.members)
    groups = row_groups(folder, [*model.spec.numeric, *model.spec.categorical, *targets])
    size = min(config.batch_size, sum(group.rows for group in groups))
    check_divisible(size, n_processes)
    share = size // n_processes
    order = torch.Generator().manual_seed(config.seed)  # the same in every process
    epochs = [assign(groups, n_processes, order) for _ in range(config.epochs)]
    # As many steps as the process with the fewest rows can take: every step averages gradients.
    steps = [min(sum(g.rows for g in own) for own in assigned) // share for assigned in epochs]
    if not min(steps):
        raise TrainingError(
            f"each of {n_processes} processes needs {share} rows in row groups of its own; the "
            f"{len(groups)} row groups below {folder} cannot be divided so: write smaller ones, "
            "or start fewer processes"
        )
    device = model.network.encoder.median.device
    generator = torch.Generator(device).manual_seed(config.seed + rank)
    drop_groups = FeatureGroupDropout(model.spec, config.group_dropout, generator)

    def batches(own: list[RowGroup], n_batches: int) -> Iterator[Step]:
        shuffled = shuffled_batches(model, own, targets, share, generator)
        for x, c, y in islice(shuffled, n_batches):
            drop_groups(x, c)
            yield x, c, y, unit_dropout(model.network, share, config.dropout, generator)

    parts = zip(epochs, steps, strict=True)
    shares = (batches(assigned[rank], n) for assigned, n in parts)
    return run_epochs(model, config, shares, sum(steps), size)


def target_columns(members: int) -> list[str]:
    return [f"target_{i}" for i in range(members)]


def row_groups(folder: Path, columns: Sequence[str]) -> list[RowGroup]:
    """All row groups below a folder, by path. Raises TrainingError unless each has the columns."""
    groups = []
    for path in sorted(folder.rglob("*.parquet")):
        footer = pyarrow.parquet.read_metadata(path)
        if absent := sorted(set(columns) - set(footer.schema.to_arrow_schema().names)):
            raise TrainingError(
                f"a shard has every input and target; {path} lacks {len(absent)} of "
                f"{len(columns)}: {absent[:10]}"
            )
        rows = (footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        groups += [RowGroup(path, i, n) for i, n in enumerate(rows)]
    if not groups:
        raise TrainingError(f"there is no Parquet file with rows below {folder}: run `make shards`")
    return groups


def assign(
    groups: Sequence[RowGroup], n_processes: int, generator: torch.Generator
) -> list[list[RowGroup]]:
    """The row groups in random order, each to the process that has the fewest rows so far."""
    assigned: list[list[RowGroup]] = [[] for _ in range(n_processes)]
    rows = [0] * n_processes
    for i in torch.randperm(len(groups), generator=generator).tolist():
        fewest = rows.index(min(rows))
        assigned[fewest].append(groups[i])
        rows[fewest] += groups[i].rows
    return assigned


def shuffled_batches(
    model: TrainedModel,
    groups: Sequence[RowGroup],
    targets: list[str],
    size: int,
    generator: torch.Generator,
) -> Iterator[Batch]:
    """Batches of ``size`` rows, mixed within pools; the rows that fill no batch are left out."""
    rest: Batch | None = None
    pools = _pools(groups)
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(_read, model, pools[0], targets)
        for number in range(len(pools)):
            pool = following.result()
            if number + 1 < len(pools):
                following = reader.submit(_read, model, pools[number + 1], targets)
            if rest is not None:
                x, c, y = (torch.cat(parts) for parts in zip(rest, pool, strict=True))
                pool = (x, c, y)
            order = torch.randperm(len(pool[2]), generator=generator, device=generator.device)
            n_whole = len(order) // size * size
            for index in order[:n_whole].split(size):
                yield _take(pool, index)
            rest = _take(pool, order[n_whole:])


def _take(batch: Batch, index: Tensor) -> Batch:
    x, c, y = batch
    return x.index_select(0, index), c.index_select(0, index), y.index_select(0, index)


def _pools(groups: Sequence[RowGroup]) -> list[list[RowGroup]]:
    """The row groups in order, cut into as many rows each: a small last pool would mix badly."""
    total = sum(group.rows for group in groups)
    n_pools = -(-total // POOL_ROWS)
    pools: list[list[RowGroup]] = [[] for _ in range(n_pools)]
    before = 0
    for group in groups:
        pools[before * n_pools // total].append(group)
        before += group.rows
    return [pool for pool in pools if pool]


def _read(model: TrainedModel, groups: Sequence[RowGroup], targets: list[str]) -> Batch:
    """The rows of the groups, encoded, on the model's device."""
    columns = [*model.spec.numeric, *model.spec.categorical, *targets]
    tables = [
        pyarrow.parquet.ParquetFile(group.path).read_row_group(group.index, columns)
        for group in groups
    ]
    frame = pyarrow.concat_tables(tables).to_pandas(split_blocks=True)
    values = frame[targets].to_numpy(dtype=np.float32, na_value=np.nan)
    if not ((values >= 0) & (values <= 1)).all():
        raise TrainingError(
            f"targets must be probabilities; in {groups[0].path} or a file read with it they range "
            f"from {values.min()} to {values.max()}"
        )
    encoded, categories = encode(model, frame)
    return encoded, categories, torch.from_numpy(values).to(encoded.device)
