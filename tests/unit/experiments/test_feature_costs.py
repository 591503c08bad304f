"""Benefit and cost of features: an ignored one has no benefit, and sizes are those of the store."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.feature_costs import (
    INTERMEDIATE,
    build_seconds,
    feature_benefits,
    group_costs,
    measure,
    online_sizes,
)
from feature_repo.definitions import definitions
from ontime.evaluation.importance import group_importance
from ontime.features.feast_config import open_feature_store
from ontime.models.serialization import TrainedModel
from ontime.problem import FEATURE_SPEC, VIEWS
from ontime.settings import Settings
from tests.conftest import Dataset, write_online
from tests.unit.serving.page_fakes import small_model


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """It ignores the first input."""
    model = small_model()
    n = len(FEATURE_SPEC.tabular)
    readers = [model.network.hidden[0]]
    if model.network.sequences:
        readers.append(model.network.queries)
    with torch.no_grad():
        for layer in readers:
            next(layer.parameters())[:, [0, n, 2 * n]] = 0
    return model


@pytest.fixture(scope="module")
def rows(examples: pd.DataFrame) -> pd.DataFrame:
    return examples.tail(1500).reset_index(drop=True)


def test_only_an_input_that_the_model_ignores_has_no_benefit(
    model: TrainedModel, rows: pd.DataFrame
) -> None:
    found = {row["feature"]: row for row in feature_benefits(model, rows)}
    assert list(found) == sorted(found, key=lambda name: -found[name]["difference"])
    assert found.keys() == {*FEATURE_SPEC.tabular}
    ignored = found[FEATURE_SPEC.tabular[0]]
    assert (ignored["difference"], ignored["low"], ignored["high"]) == (0, 0, 0)
    assert sum(row["difference"] != 0 for row in found.values()) > len(found) / 2


def test_sizes_are_counted_per_view_and_unstored_groups_have_none(
    dataset: Dataset, model: TrainedModel, rows: pd.DataFrame, tmp_path: Path
) -> None:
    settings = dataset.settings.model_copy(update={"data_dir": tmp_path})
    for name in ("tables", "features"):
        (tmp_path / name).symlink_to(dataset.settings.data_dir / name)
    store = open_feature_store(settings)
    store.apply(definitions(settings.features_dir))
    stored = {view.name: dataset.rows(view.name).tail(40) for view in VIEWS}
    for view in VIEWS:
        write_online(store, view, stored[view.name])

    sizes = online_sizes(settings)
    for view in VIEWS:
        keys, size = sizes[view.name]
        assert keys == len(stored[view.name].drop_duplicates([*view.keys]))
        assert size > keys * 8 * (1 + len(view.columns))  # a timestamp, the features, and the key

    found = group_costs(settings, group_importance(model, rows), model)
    by_group = {row["group"]: row for row in found}
    assert by_group.keys() == {*FEATURE_SPEC.groups, *FEATURE_SPEC.categorical, INTERMEDIATE}
    for view in VIEWS:
        assert by_group[view.name]["rows"] == len(dataset.rows(view.name))
        assert by_group[view.name]["disk_bytes"] > 0
    unstored = by_group.keys() - sizes.keys() - {INTERMEDIATE}
    assert all("online_bytes" not in by_group[group] for group in unstored)


def test_every_view_and_what_they_share_takes_time(dataset: Dataset) -> None:
    seconds = build_seconds(dataset.settings)
    assert seconds.keys() == {INTERMEDIATE, *(view.name for view in VIEWS)}
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) > 0


def test_without_a_demo_the_command_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `make demo` first"):
        measure(Settings().model_copy(update={"data_dir": tmp_path}))
