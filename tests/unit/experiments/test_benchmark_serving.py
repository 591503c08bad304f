"""The serving benchmark: what is read from wrk's output, and the ratios."""

import pytest

from experiments.benchmark_serving import VISITED, milliseconds, ratios

OUTPUT = """
  Latency Distribution
     50%  312.00us
     75%    1.20ms
     90%    1.05s
     99%    1.50m
  9346 requests in 4.00s, 3.10MB read
"""


@pytest.mark.parametrize(
    ("quantile", "ms"), [("50%", 0.312), ("75%", 1.2), ("90%", 1050.0), ("99%", 90_000.0)]
)
def test_a_latency_is_read_in_milliseconds_whatever_its_unit(quantile: str, ms: float) -> None:
    assert milliseconds(OUTPUT, quantile) == pytest.approx(ms)


def row(server: str, connections: int, speed: float, instances: int = 1) -> dict[str, object]:
    return {
        "server": server,
        "connections": connections,
        "instances": instances,
        "requests_per_s": speed,
        "p50_ms": 1000 / speed,
        "p99_ms": 4000 / speed,
    }


def test_the_ratios_compare_one_instance_per_request() -> None:
    rows = [
        row("bare", 16, 1000), row("naive Feast", 16, 20), row("MLflow", 16, 40),
        row("ours", 1, 250), row("ours", 16, 400), row("ours", 4, 50, instances=100),
        row("ours, 2 workers", 64, 700), row(VISITED, 16, 360), row("bare", 1, 9),
        row("ours", 64, 400), row("ours, 2 workers", 16, 9),
    ]  # fmt: skip

    assert ratios(rows) == {
        "to_bare": 0.4,
        "to_naive_feast": 20.0,
        "to_mlflow_serve": 10.0,
        "p99_to_bare": 2.5,
        "idle_p50_ms": 4.0,
        "batch_predictions_per_s": 5000.0,
        "two_workers_to_one": 1.75,
        "with_visitors": 0.9,
    }
