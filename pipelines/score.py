"""Score: the champion's predictions for a Parquet file of any size, in constant memory.

    python -m pipelines.score input.parquet output.parquet

The input has one row per instance and every input of the model, as
`ontime.features.historical.build_examples` returns them. The output has its other columns (keys,
times) and ``probability``, ``uncertainty`` (standard deviation of the ensemble members),
``decision`` (probability >= the model's threshold) and ``model_version``.
"""

import argparse
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
from prefect import flow

from ontime.data.files import atomic_write
from ontime.problem import INSTANCES
from ontime.registry import model_registry as registry
from ontime.settings import Settings

BATCH_ROWS = 65_536  # 16 MB of features
OUTPUTS = {
    "probability": arrow.float64(),
    "uncertainty": arrow.float64(),
    "decision": arrow.bool_(),
    "model_version": arrow.string(),
}


@flow(name="score")
def score(source: Path, target: Path) -> int:
    """Score ``source`` into ``target``, which is complete or absent; returns the number of rows.

    Raises:
        LookupError: if no version is champion.
        ValueError: if the file lacks an input of the model.
    """
    settings = Settings()
    version = registry.resolve(settings, registry.CHAMPION)
    if version is None:
        raise LookupError("nothing to score with: no version is champion; run `make train promote`")
    model = registry.load(settings, version)
    inputs = [*model.spec.numeric, *model.spec.categorical]
    n_rows = 0
    with parquet.ParquetFile(source) as file:
        columns = file.schema_arrow
        if missing := [name for name in inputs if name not in columns.names]:
            raise ValueError(
                f"a file to score must have every input of the model, NaN where missing; {source} "
                f"lacks {len(missing)} of {len(inputs)}: {missing[:10]}"
            )
        kept = [column for column in columns if column.name not in model.spec.numeric]
        schema = arrow.schema([*kept, *OUTPUTS.items()])
        with atomic_write(target) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            for batch in file.iter_batches(BATCH_ROWS):
                members = model.predict_members(batch.select(inputs).to_pandas())
                probability = members.mean(axis=1)
                outputs = {
                    "probability": probability,
                    "uncertainty": members.std(axis=1),
                    "decision": probability >= model.metadata["threshold"],
                    "model_version": [version] * len(batch),
                }
                given = {column.name: batch.column(column.name) for column in kept}
                writer.write_batch(arrow.RecordBatch.from_pydict(given | outputs, schema))
                n_rows += len(batch)
                print(
                    f"\r  {n_rows:,} of {file.metadata.num_rows:,} {INSTANCES}", end="", flush=True
                )
    print(f"\n  scored by version {version}: {target}")
    return n_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="Parquet with the model's inputs")
    parser.add_argument("target", type=Path, help="Parquet that is written")
    arguments = parser.parse_args()
    score(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
