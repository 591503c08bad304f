"""Promote: the gate. The challenger serves only if it earns it on flights that nobody has seen.

python -m pipelines.promote --as-of 2013-05-01
"""

import argparse
from dataclasses import asdict
from datetime import datetime, timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from ontime.clock import parse_moment
from ontime.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from ontime.gate import Verdict
    from ontime.model import TrainedModel

BASELINES_TO_BEAT = ("base_rate", "logistic")
JUDGED_AT_MOST = timedelta(days=28)
LATENCY_ROWS = 64  # a busy hour of the three airports
LATENCY_TURNS = 15


@task(cache_policy=NO_CACHE, persist_result=False)
def judge(challenger: str, champion: str | None, as_of: datetime) -> "Verdict":
    """The gate's verdict on a version, from flights unseen by it and by the champion."""
    from ontime import registry
    from ontime.gate import judge_against_champion, judge_first

    settings = Settings()
    if champion is None:
        judged = registry.judged(settings, challenger)
        baselines = {name: judged[name].to_numpy() for name in BASELINES_TO_BEAT}
        return judge_first(judged, judged.network.to_numpy(), baselines)
    new, old = registry.load(settings, challenger), registry.load(settings, champion)
    flights = unseen_flights(settings, [new, old], as_of)
    return judge_against_champion(
        flights, new.predict(flights), old.predict(flights), latency_ratio(new, old, flights)
    )


def unseen_flights(
    settings: Settings, models: list["TrainedModel"], as_of: datetime
) -> "pd.DataFrame":
    """Examples asked about since the last of the models was trained, outcome known at as_of."""
    import pandas as pd

    from ontime.clock import prediction_time
    from ontime.dataset import build_examples
    from ontime.feature_store import open_feature_store
    from ontime.tables import FLIGHTS, read_tables

    since = max(pd.Timestamp(model.metadata["trained_through"]) for model in models)
    since = max(since, pd.Timestamp(as_of) - JUDGED_AT_MOST)
    flights = read_tables(settings.tables_dir, (FLIGHTS,))["flights"]
    asked = prediction_time(flights.scheduled_departure)
    recent = flights[(asked >= since) & (flights.outcome_known_at <= as_of)]
    return build_examples(open_feature_store(settings), recent)


def latency_ratio(new: "TrainedModel", old: "TrainedModel", flights: "pd.DataFrame") -> float:
    """Time to answer one busy hour's flights, new over old; timed in turn, the fastest of each."""
    rows = flights.head(LATENCY_ROWS)

    def seconds(model: "TrainedModel") -> float:
        started = perf_counter()
        model.predict(rows)
        return perf_counter() - started

    turns = [(seconds(new), seconds(old)) for _ in range(LATENCY_TURNS)]
    return min(new for new, _ in turns) / min(old for _, old in turns)


@task(cache_policy=NO_CACHE, persist_result=False)
def carry_out(
    challenger: str, champion: str | None, changes: int, verdict: "Verdict", as_of: datetime
) -> None:
    """Move the alias if the verdict says so, and write the verdict on the version."""
    from ontime import registry
    from ontime.decision_log import open_decision_log
    from ontime.succession import change_champion

    settings = Settings()
    if verdict.promote:
        reasons = list(verdict.reasons)
        change_champion(
            settings,
            open_decision_log(settings),
            "promotion",
            challenger,
            champion,
            changes + 1,
            as_of,
            reasons,
        )
    tags = {
        "gate": "promoted" if verdict.promote else "refused",
        "gate_as_of": as_of.isoformat(),
        "gate_reasons": "; ".join(verdict.reasons),
    }
    registry.tag_version(settings, challenger, tags)


@flow(name="promote")
def promote(as_of: datetime) -> dict[str, Any]:
    """Judge the challenger at ``as_of`` and promote it if it earned it; the verdict as a dict.

    Raises:
        LookupError: if there is no challenger, or it serves already.
        ChampionChanged: if another promotion or rollback came between.
    """
    from ontime import registry
    from ontime.decision_log import open_decision_log
    from ontime.succession import settled_champion

    settings = Settings()
    champion, changes = settled_champion(settings, open_decision_log(settings))
    challenger = registry.resolve(settings, registry.CHALLENGER)
    if challenger is None or challenger == champion:
        raise LookupError(
            f"promote needs a challenger that does not serve yet; challenger is {challenger}, "
            f"champion is {champion}: run `make train` first"
        )
    verdict = judge(challenger, champion, as_of)
    carry_out(challenger, champion, changes, verdict, as_of)
    word = "promoted" if verdict.promote else "refused"
    print(f"  version {challenger} {word}: {'; '.join(verdict.reasons)}")
    create_markdown_artifact(key="gate", markdown=gate_text(challenger, champion, verdict))
    return asdict(verdict) | {"challenger": challenger, "champion": champion}


def gate_text(challenger: str, champion: str | None, verdict: "Verdict") -> str:
    word = "promoted" if verdict.promote else "refused"
    reasons = "\n".join(f"- {reason}" for reason in verdict.reasons)
    return f"## Version {challenger} {word} (champion: {champion or 'none'})\n{reasons}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-of", type=parse_moment, default=parse_moment("2013-05-01"))
    promote(parser.parse_args().as_of)


if __name__ == "__main__":
    main()
