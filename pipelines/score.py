"""Score: the champion's answers for a Parquet file of any size, in memory that does not grow.

    python -m pipelines.score flights.parquet answers.parquet

The file holds one row a flight with every input of the model, as `ontime.dataset.build_examples`
makes them. The answers keep its other columns (keys, times) and add ``probability_late``,
``uncertainty`` (deviation of the ensemble's members) and ``model_version``.
"""

import argparse
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
from prefect import flow

from ontime.settings import Settings

ROWS_AT_ONCE = 65_536  # 16 MB of features


@flow(name="score")
def score(source: Path, target: Path) -> int:
    """Score ``source`` into ``target``, which appears whole or not at all; the number of rows.

    Raises:
        LookupError: if no version is champion.
        ValueError: if the file lacks an input of the model.
    """
    from ontime import registry

    settings = Settings()
    version = registry.resolve(settings, registry.CHAMPION)
    if version is None:
        raise LookupError("nothing to score with: no version is champion; run `make train promote`")
    model = registry.load(settings, version)
    inputs = [*model.spec.numeric, *model.spec.categorical]
    unfinished = target.with_name(f"{target.name}.unfinished")
    with parquet.ParquetFile(source) as file:
        names = file.schema_arrow.names
        if absent := [name for name in inputs if name not in names]:
            raise ValueError(
                f"a file to score holds every input of the model, NaN where missing; {source} "
                f"lacks {len(absent)} of {len(inputs)}: {absent[:10]}"
            )
        kept = [name for name in names if name not in model.spec.numeric]
        answers = [("probability_late", arrow.float64()), ("uncertainty", arrow.float64())]
        schema = arrow.schema(
            [*(file.schema_arrow.field(name) for name in kept), *answers,
             ("model_version", arrow.string())]
        )  # fmt: skip
        done = 0
        with parquet.ParquetWriter(unfinished, schema) as writer:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                members = model.predict_members(batch.select(inputs).to_pandas())
                columns = {
                    "probability_late": members.mean(axis=1),
                    "uncertainty": members.std(axis=1),
                    "model_version": [version] * len(batch),
                }
                given = {name: batch.column(name) for name in kept}
                writer.write_batch(arrow.RecordBatch.from_pydict(given | columns, schema))
                done += len(batch)
                print(f"\r  {done:,} of {file.metadata.num_rows:,} flights", end="", flush=True)
    unfinished.replace(target)
    print(f"\n  scored by version {version}: {target}")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="Parquet with the model's inputs")
    parser.add_argument("target", type=Path, help="Parquet that is written")
    arguments = parser.parse_args()
    score(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
