"""Export: the champion as archives that run without this repository, compared with the model.

    python -m pipelines.export_model

Writes ``model.pt2``, ``model-int8.pt2`` and ``model.json`` (inputs in order, vocabularies, SHA-256
digests) to ``export/`` in the data directory. Each archive predicts training rows, and the same
rows with missing inputs and unknown categories; the largest difference must be within `TOLERANCES`.
The int8 archive is larger than the float32 weights: the graph takes more bytes than int8 saves.
"""

import json
from time import perf_counter
from typing import Any

import torch
from prefect import flow
from prefect.artifacts import create_table_artifact
from torch import Tensor, nn

from ontime.data.files import atomic_write
from ontime.models.export import (
    export_network,
    load_exported,
    quantize_int8,
    save_exported,
)
from ontime.registry import model_registry as registry
from ontime.settings import Settings

# Largest difference of a probability. float32 is added in another order; int8 rounds each weight
# and each input by up to 0.4 % of the largest one in its row.
TOLERANCES = {"model.pt2": 1e-5, "model-int8.pt2": 0.03}
TIMED_ROWS, REPEATS = 4096, 20
MISSING_SHARE = 0.3


@flow(name="export")
def export() -> list[dict[str, Any]]:
    """Export the champion; returns one row per file, and one for the model.

    Raises:
        LookupError: if no version is champion.
        ArithmeticError: if an archive's predictions differ by more than the tolerance.
    """
    settings = Settings()
    version = registry.resolve(settings, registry.CHAMPION)
    if version is None:
        raise LookupError("nothing to export: no version is champion; run `make train promote`")
    model = registry.load(settings, version)
    folder = settings.data_dir / "export"
    networks = {"model.pt2": model.network, "model-int8.pt2": quantize_int8(model.network)}
    digests = {
        name: save_exported(export_network(network), folder / name)
        for name, network in networks.items()
    }
    description = {
        "version": version,
        "numeric": model.spec.numeric,
        "categorical": model.spec.categorical,
        "vocabularies": model.vocabularies,  # position i has index i + 1; 0 is an unknown category
        "sha256": digests,
    }
    (folder / "model.json").write_text(json.dumps(description, indent=1) + "\n")

    numeric, categories = model.tensors(registry.reference_data(settings, version))
    torch.manual_seed(0)
    missing = torch.rand(numeric.shape) < MISSING_SHARE
    known = torch.rand(categories.shape) >= MISSING_SHARE
    numeric = torch.cat([numeric, numeric.masked_fill(missing, torch.nan)])
    categories = torch.cat([categories, categories * known])
    with torch.inference_mode():
        expected = model.network(numeric, categories).double()
    n_weights = sum(tensor.numel() for tensor in model.network.state_dict().values())
    rows = [measure("model", model.network, numeric, categories, expected, 4 * n_weights)]
    for name, digest in digests.items():
        network, size = load_exported(folder / name, digest), (folder / name).stat().st_size
        rows.append(measure(name, network, numeric, categories, expected, size))
        if (difference := rows[-1]["max_difference"]) > TOLERANCES[name]:
            raise ArithmeticError(
                f"{name} must predict as the model within {TOLERANCES[name]}; the largest "
                f"difference on {len(expected)} rows is {difference:.6f}"
            )
    with atomic_write(settings.reports_dir / "export.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1))
    create_table_artifact(key="export", table=rows)
    print_table(rows)
    print(f"version {version} is in {folder}")
    return rows


def measure(
    name: str, network: nn.Module, numeric: Tensor, categories: Tensor, expected: Tensor, size: int
) -> dict[str, Any]:
    """Size, rows per second in one batch, and the difference from ``expected`` [n]."""
    with torch.inference_mode():
        found = network(numeric, categories).double()
        batch = numeric[:TIMED_ROWS], categories[:TIMED_ROWS]
        started = perf_counter()
        for _ in range(REPEATS):
            network(*batch)
        seconds = perf_counter() - started
    # The expected increase of the log-loss if the labels had the model's own probabilities.
    p, q = expected.clamp(1e-7, 1 - 1e-7), found.clamp(1e-7, 1 - 1e-7)
    divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    return {
        "what": name,
        "mb": size / 1e6,
        "rows_per_second": REPEATS * len(batch[0]) / seconds,
        "max_difference": float((found - expected).abs().max()),
        "cost_in_log_loss": float(divergence),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    print("\nwhat                MB       rows/s   largest difference   log-loss increase")
    for row in rows:
        print(
            f"{row['what']:<16}{row['mb']:>6.2f} {row['rows_per_second']:>12,.0f}"
            f" {row['max_difference']:>20.7f} {row['cost_in_log_loss']:>19.7f}"
        )


if __name__ == "__main__":
    export()
