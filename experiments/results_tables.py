"""Markdown tables of the results page, each from one report."""

import re

from experiments.markdown import DIFFERENCE, Report, facts, table
from ontime.problem import INSTANCES

FAULTS = ("frozen", "full_disk")  # besides a kill
SCORES = {
    "AUC": "{auc:.4f}",
    "PR-AUC": "{pr_auc:.4f}",
    "log-loss": "{log_loss:.4f}",
    "Brier": "{brier:.4f}",
    "ECE": "{ece:.4f}",
}
STRONGEST = "lightgbm_aggregates"  # refitted with the last week, bagged, with every input


def demo_table(demo: Report) -> str:
    """What the README promises of the demo."""
    replay = demo["replay"]
    low, high = replay["interval"]
    return facts(
        f"`make demo`, {replay['start'][:10]} to {replay['end'][:10]}",
        demo | {"low": low, "high": high},
        {
            "predictions over HTTP; failed requests": "{replay[predictions]:,}, lost "
            "{replay[lost]}, doubled {replay[doubled]}; {serving[failed]} of {serving[requests]:,}",
            "served features compared with the historical join": "{parity[checked]:,}; "
            "{parity[mismatched]} mismatched",
            "retrains, promotions, rejections": "{replay[retrains]}, {replay[promotions]}, "
            "{replay[rejections]}",
            "log-loss served against a model frozen on everything known at the start, "
            f"{replay['outcomes']:,} labelled {INSTANCES}": "{replay[serving_log_loss]:.4f} "
            "against {replay[frozen_log_loss]:.4f}: {replay[difference]:+.4f} "
            "[{low:+.4f}, {high:+.4f}]",
        },
    )


def backtest_row(backtest: Report) -> str:
    """The network and its strongest competitor, holdout months: a row of the README's table."""
    rows = {row["model"]: row for row in backtest["rows"] if row["month"] == "holdout"}
    trees = rows[STRONGEST]
    what = (
        "log-loss, network against LightGBM with aggregates of the same events (refitted with the "
        f"last week, bagged), {trees['n']:,.0f} {INSTANCES} of the months from which no choice was "
        "made (`make backtest`)"
    )
    pair = f"{rows['network']['log_loss']:.4f} against {trees['log_loss']:.4f}"
    return f"| {what} | {pair}: {DIFFERENCE.format_map(trees)} |"


def run_table(demo: Report) -> str:
    forms = {
        "machine": "{machine}",
        "latency of a request of up to 256 instances, p50 / p99": "{serving[p50_ms]:.0f} / "
        "{serving[p99_ms]:.0f} ms",
        "first prediction after": "{seconds[to_first_prediction]:.0f} s",
        "replay / all": "{seconds[replay]:.0f} s / {seconds[total]:.0f} s",
        "peak memory of all processes": "{peak_rss_gb:.1f} GB",
        "ECE served / frozen": "{replay[serving_ece]:.4f} / {replay[frozen_ece]:.4f}",
        f"cost per 1,000 {INSTANCES}, in false alarms: served / frozen / LightGBM / always / "
        "never": "{cost[served]:.0f} / {cost[frozen]:.0f} / {cost[lightgbm]:.0f} / "
        "{cost[always]:.0f} / {cost[never]:.0f}",
    }
    return facts("that run", demo | {"cost": demo["replay"]["cost_per_1000"]}, forms)


def events_table(demo: Report) -> str:
    columns = {"day": "{at:.10}", "event": "{kind} {label}", "reason": "{reason}"}
    return table(demo["events"], columns)


def models_table(demo: Report) -> str:
    rows = [{"model": name} | scores for name, scores in demo["models"].items()]
    return table(rows, {"model": "{model}"} | SCORES)


def backtest_table(backtest: Report, period: str) -> str:
    """Every model on a month, or on one of the periods "choice", "holdout" and "all"."""
    rows = [
        row | {"lowest": min(row["log_loss_of_seeds"]), "highest": max(row["log_loss_of_seeds"])}
        for row in backtest["rows"]
        if row["month"] == period
    ]
    columns = {
        "ECE": "{ece:.4f} [{ece_low:.4f}, {ece_high:.4f}]",
        "log-loss of the seeds": "{lowest:.4f} to {highest:.4f}",
        "network minus it": DIFFERENCE,
    }
    return table(rows, {"model": "{model}"} | SCORES | columns)


def months_table(backtest: Report) -> str:
    """The network and its strongest competitors, per month and on the periods of several months."""
    shown = ("network", "teachers", "lightgbm")
    log_loss = {(row["month"], row["model"]): row["log_loss"] for row in backtest["rows"]}
    rows = [
        row | {model: log_loss[row["month"], model] for model in shown}
        for row in backtest["rows"]
        if row["model"] == STRONGEST and row["month"] != "all"
    ]
    columns = {
        "month": "{month}",
        INSTANCES: "{n:,.0f}",
        "positive rate": "{positive_rate:.3f}",
        **{model: f"{{{model}:.4f}}" for model in shown},
        STRONGEST: "{log_loss:.4f}",
        f"network minus {STRONGEST}": DIFFERENCE,
    }
    return table(rows, columns)


def slices_table(backtest: Report) -> str:
    """The network against two LightGBMs within each slice of all months."""
    of_slice: dict[tuple[str, str], dict[str, Report]] = {}
    for row in backtest["slices"]:
        of_slice.setdefault((row["slice"], row["value"]), {})[row["model"]] = row
    columns = {
        "slice": "{network[slice]}: {network[value]}",
        INSTANCES: "{network[n]:,.0f}",
        "network": "{network[log_loss]:.4f}",
    }
    for model in ("lightgbm", STRONGEST):
        columns[f"network minus {model}"] = re.sub("{(\\w+)", rf"{{{model}[\1]", DIFFERENCE)
    return table(of_slice.values(), columns)


def benchmark_table(bench: Report) -> str:
    def number(value: float | None) -> str:
        if value is None:
            return "never"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"

    rows = [
        row
        | {name: number(row[name]) for name in ("ours", "beside", "ratio")}
        | {"kept": ": missed" if row["kept"] is False else ""}
        for row in bench["ratios"]
    ]
    columns = {
        "": "{what}",
        "ontime": "{ours}",
        "peer": "{beside} ({to})",
        "ratio": "{ratio}",
        "limit": "{limit:.20}{kept}",
    }
    return table(rows, columns)


def serving_table(serving: Report) -> str:
    """Throughput and latency per server and load, in the order of the measurement."""
    columns = {
        "server": "{server}",
        "connections": "{connections}",
        f"{INSTANCES} per request": "{instances}",
        "requests/s": "{requests_per_s:,.0f}",
        "p50 ms": "{p50_ms:.1f}",
        "p99 ms": "{p99_ms:.1f}",
        "CPU ms per request": "{cpu_ms_per_request:.2f}",
    }
    return table(serving["rows"], columns)


def serving_ratios(serving: Report) -> str:
    forms = {
        "throughput against bare FastAPI, 16 connections, SQLite": "{to_bare:.2f}",
        "against Feast and the network called per request": "{to_naive_feast:.0f}",
        "against `mlflow models serve`, without features and log": "{to_mlflow_serve:.0f}",
        "p99 against bare FastAPI": "{p99_to_bare:.1f}",
        "p50 of one idle connection, ms": "{idle_p50_ms:.1f}",
        f"{INSTANCES}/s in requests of 100": "{batch_predictions_per_s:,.0f}",
        "two worker processes against one, 64 connections": "{two_workers_to_one:.2f}",
    }
    forms |= {  # not in every report
        what: f"{{{name}:.2f}}"
        for name, what in {
            "redis_to_bare": "against bare FastAPI, features in Redis, log in SQLite",
            "deployed_to_bare": "against bare FastAPI, features in Redis, log in Postgres",
            "shadow_to_bare": "against bare FastAPI, SQLite, a challenger in shadow",
            "with_visitors": "with eight visitors on the pages against without",
        }.items()
        if name in serving
    }
    return facts("ratio", serving, forms)


def export_table(export: list[Report]) -> str:
    columns = {
        "exported model": "{what}",
        "MB": "{mb:.2f}",
        "rows/s": "{rows_per_second:,.0f}",
        "largest difference": "{max_difference:.1e}",
    }
    return table(export, columns)


def feature_groups_table(costs: Report) -> str:
    """Benefit and cost per group of inputs; what is not stored costs nothing here."""

    def cells(row: Report) -> Report:
        empty = dict.fromkeys(("features", "log_loss_reduction", "rows", "online_keys", "mb", "kb"))
        if "disk_bytes" in row:
            row = row | {"mb": row["disk_bytes"] / 1e6, "kb": row["online_bytes"] / 1e3}
        return empty | {"build_seconds": None} | row

    columns = {
        "group": "`{group}`",
        "features": "{features:,}",
        "benefit, nats (SAGE)": "{log_loss_reduction:.4f}",
        "build, s": "{build_seconds:.1f}",
        "rows": "{rows:,}",
        "on disk, MB": "{mb:.1f}",
        "online, keys": "{online_keys:,}",
        "online, kB": "{kb:,.0f}",
    }
    return table([cells(row) for row in costs["groups"]], columns)


def features_table(costs: Report) -> str:
    columns = {
        "feature": "`{feature}`",
        "group": "`{group}`",
        "log-loss if exchanged between rows": DIFFERENCE,
    }
    return table(costs["features"], columns)


def stack_table(e2e: Report) -> str:
    forms = {
        "`docker compose up` until a first champion serves, s": "{up_seconds}",
        "rebuild after a change of source, s": "{rebuild_seconds}",
        "image for serving / for everything else, GB": "{ontime-serving_gb} / "
        "{ontime-pipelines_gb}",
        "Redis paused / stopped, s until a 503": "{redis_pause_503_seconds} / "
        "{redis_stop_503_seconds}",
        "Postgres paused / stopped, s until a 503": "{postgres_pause_503_seconds} / "
        "{postgres_stop_503_seconds}",
        "API started without MLflow and S3, s": "{api_restart_without_registry_seconds}",
        "everything killed, s until all is healthy": "{up_after_kill_seconds}",
    }
    return facts("`make e2e`", e2e, forms)


def recovery_table(e2e: Report) -> str:
    """Seconds to recovery per service and fault, the slowest to recover from a kill first.

    A fault that a run did not reach has no seconds.
    """
    killed = e2e["recovery_seconds"]
    rows = [
        {"service": name, "killed": seconds}
        | {fault: e2e.get(f"{fault}_recovery_seconds", {}).get(name) for fault in FAULTS}
        for name, seconds in sorted(killed.items(), key=lambda item: -item[1])
    ]
    columns = {
        "service": "{service}",
        "killed": "{killed:.1f}",
        "frozen": "{frozen:.1f}",
        "disk full": "{full_disk:.1f}",
    }
    return table(rows, columns)


def attack_table(attack: Report) -> str:
    values = attack | {
        "n_failures": len(attack["generated"]["failures"]),
        "n_malice": len(attack["malice"]),
        "wrong": sum(not row["right"] for row in attack["malice"]),
    }
    forms = {
        "generated requests, checks of schemathesis that failed": "{generated[requests]:,}, "
        "{n_failures}",
        "kinds of hostile requests, answered wrongly": "{n_malice}, {wrong}",
        "p50 / p99 of a prediction before, ms": "{before[p50_ms]:.1f} / {before[p99_ms]:.1f}",
        "p50 / p99 of a prediction after, ms": "{after[p50_ms]:.1f} / {after[p99_ms]:.1f}",
        "memory of two workers before / after, MB": "{before[rss_mb]:,} / {after[rss_mb]:,}",
        "`kill -9` under load; predictions returned": "{kills[kills]}; {kills[returned]:,}",
        "of these lost, doubled, different from the log": "{kills[lost]}, {kills[doubled]}, "
        "{kills[different]}",
        "all of it, s": "{seconds:,}",
    }
    return facts("`make attack`", values, forms)
