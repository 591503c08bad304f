"""The weekly comparison: each prediction of a replay is in one of its whole weeks."""

import numpy as np
import pandas as pd

from simulation.weekly_comparison import weekly_comparison

START = pd.Timestamp("2024-05-01", tz="UTC")


def test_a_replay_of_two_weeks_has_two_weeks() -> None:
    as_of = pd.date_range(START, START + pd.Timedelta(weeks=2), freq="h", inclusive="right")
    served = pd.DataFrame({"as_of": as_of, "model_version": "1", "probability": 0.25})
    served = served.assign(
        decision=False, label=pd.array(np.arange(len(as_of)) % 3 == 0, "boolean")
    )

    always, never = np.full(len(as_of), 1.0), np.full(len(as_of), 0.0)
    weeks = weekly_comparison(served, always, never, START)

    assert [week["start"] for week in weeks] == [
        (START + pd.Timedelta(weeks=i)).isoformat() for i in range(2)
    ]
    assert [week["predictions"] for week in weeks] == [168, 168]
    assert all(week["label_coverage"] == 1 for week in weeks)
    for week in weeks:
        assert week["frozen_cost"] == week["always_cost"]
        assert week["lightgbm_cost"] == week["never_cost"] != week["always_cost"]
