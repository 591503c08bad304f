"""Export: the champion as programs that run without this repository, proved equal to it.

    python -m pipelines.export

Writes ``model.pt2``, ``model-int8.pt2`` and ``model.json`` (inputs in order, vocabularies, SHA-256
sums) below ``var/export``, and compares both with the model on flights it was trained on, and on
the same flights with inputs missing and categories never seen.
"""

import json
from time import perf_counter
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from ontime.settings import Settings

if TYPE_CHECKING:
    import torch

# Of a probability. Float32 adds in another order; a byte rounds each weight and each input by up to
# 0.4 % of the largest beside it.
TOLERANCES = {"model.pt2": 1e-5, "model-int8.pt2": 0.03}
TIMED_ROWS, TIMES = 4096, 20


@flow(name="export")
def export() -> list[dict[str, Any]]:
    """Export the champion; a row a file.

    Raises:
        LookupError: if no version is champion.
        ArithmeticError: if an exported program answers otherwise than the model.
    """
    import torch

    from ontime import registry
    from ontime.exported import as_program, in_int8, load_checked, save

    settings = Settings()
    version = registry.resolve(settings, registry.CHAMPION)
    if version is None:
        raise LookupError("nothing to export: no version is champion; run `make train promote`")
    model = registry.load(settings, version)
    folder = settings.var / "export"
    networks = {"model.pt2": model.network, "model-int8.pt2": in_int8(model.network)}
    sums = {name: save(as_program(network), folder / name) for name, network in networks.items()}
    description = {
        "version": version,
        "numeric": model.spec.numeric,
        "categorical": model.spec.categorical,
        "vocabularies": model.vocabularies,  # position i has index i + 1; 0 is "never seen"
        "sha256": sums,
    }
    (folder / "model.json").write_text(json.dumps(description, indent=1) + "\n")

    numeric, categories = model.tensors(registry.reference(settings, version))
    torch.manual_seed(0)
    hidden = torch.rand(numeric.shape) < 0.3
    numeric = torch.cat([numeric, numeric.masked_fill(hidden, torch.nan)])
    categories = torch.cat([categories, categories * (torch.rand(categories.shape) < 0.7)])
    with torch.inference_mode():
        truth = model.network(numeric, categories).double()
    numbers = sum(tensor.numel() for tensor in model.network.state_dict().values())
    rows = [measured("model", model.network, numeric, categories, truth, 4 * numbers)]
    for name, digest in sums.items():
        program, size = load_checked(folder / name, digest), (folder / name).stat().st_size
        rows.append(measured(name, program, numeric, categories, truth, size))
        if rows[-1]["max_difference"] > TOLERANCES[name]:
            raise ArithmeticError(
                f"{name} answers as the model within {TOLERANCES[name]}; on one of {len(truth)} "
                f"rows it is {rows[-1]['max_difference']:.6f} off"
            )
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    (settings.reports_dir / "export.json").write_text(json.dumps(rows, indent=1))
    create_table_artifact(key="export", table=rows)
    tell(rows)
    print(f"version {version} is in {folder}")
    return rows


def measured(
    name: str,
    program: "torch.nn.Module",
    numeric: "torch.Tensor",
    categories: "torch.Tensor",
    truth: "torch.Tensor",
    size: int,
) -> dict[str, Any]:
    """How far from the model, how large and how fast, in rows a second of one batch."""
    import torch

    with torch.inference_mode():
        answers = program(numeric, categories).double()
        some = numeric[:TIMED_ROWS], categories[:TIMED_ROWS]
        started = perf_counter()
        for _ in range(TIMES):
            program(*some)
        seconds = perf_counter() - started
    # What the rounding would cost in log-loss if the model's own probabilities were true.
    p, q = truth.clamp(1e-7, 1 - 1e-7), answers.clamp(1e-7, 1 - 1e-7)
    cost = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    return {
        "what": name,
        "mb": size / 1e6,
        "rows_per_second": TIMES * len(some[0]) / seconds,
        "max_difference": float((answers - truth).abs().max()),
        "cost_in_log_loss": float(cost),
    }


def tell(rows: list[dict[str, Any]]) -> None:
    print("\nwhat                MB       rows/s   largest difference   cost in log-loss")
    for row in rows:
        print(
            f"{row['what']:<16}{row['mb']:>6.2f} {row['rows_per_second']:>12,.0f}"
            f" {row['max_difference']:>20.7f} {row['cost_in_log_loss']:>18.7f}"
        )


def main() -> None:
    export()


if __name__ == "__main__":
    main()
