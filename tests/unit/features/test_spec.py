"""Declarations of features: groups, tables and keys follow from the views."""

from datetime import timedelta

import pytest

from ontime.features.spec import (
    FeatureSpec,
    FeatureSpecError,
    View,
    entity_keys,
    feature_spec,
)
from ontime.problem import ENTITY_KEYS, FEATURE_SPEC, VIEWS

SENSOR = View(
    "sensor_state",
    {"sensor": "string", "hour": "int32"},
    timedelta(hours=3),
    {"level": (0, 1), "n_read": (0, 60), "read_epoch_min": (0, 1e9)},
    nullable_columns=("level",),
    helper_columns=("read_epoch_min",),
)
PLACE = View("place_state", {"place": "string"}, timedelta(days=1), {"place_level": (0, 1)})


def test_the_model_reads_the_views_then_the_request_features() -> None:
    request = {"request": ("weekday",), "sensor_state": ("age_min",)}
    spec = feature_spec([SENSOR, PLACE], request, categorical=("sensor",))
    assert spec.groups == {
        "sensor_state": ("level", "n_read", "age_min"),
        "place_state": ("place_level",),
        "request": ("weekday",),
    }
    assert spec.numeric == ("level", "n_read", "age_min", "place_level", "weekday")
    assert spec.categorical == ("sensor",)


def test_a_views_table_has_its_keys_columns_and_event_timestamp() -> None:
    table = SENSOR.table
    assert table.grain == "one row per sensor x hour x event_timestamp"
    assert table.keys == ("sensor", "hour", "event_timestamp")
    assert {name: column.dtype for name, column in table.columns.items()} == {
        "sensor": "string",
        "hour": "int32",
        "level": "float32",
        "n_read": "float32",
        "read_epoch_min": "float64",
        "event_timestamp": "timestamp",
    }
    assert [name for name, column in table.columns.items() if column.nullable] == ["level"]
    assert table.columns["n_read"].high == 60


def test_an_input_that_is_listed_twice_is_an_error() -> None:
    with pytest.raises(FeatureSpecError, match=r"listed twice: \['level'\]"):
        feature_spec([SENSOR], {"request": ("level",)}, categorical=())


def test_a_group_of_unknown_inputs_is_an_error() -> None:
    with pytest.raises(FeatureSpecError, match=r"group 'a' .* it holds \['z'\]"):
        FeatureSpec(("x",), (), {"a": ("x", "z")})


def test_a_key_with_two_types_is_an_error() -> None:
    other = View("other", {"hour": "string"}, timedelta(days=1), {"x": (0, 1)})
    with pytest.raises(FeatureSpecError, match="'hour' is int32 and string"):
        entity_keys([SENSOR, other])


def test_the_problems_groups_hold_every_numeric_input_once() -> None:
    grouped = [name for names in FEATURE_SPEC.groups.values() for name in names]
    assert list(FEATURE_SPEC.numeric) == grouped
    assert set(ENTITY_KEYS) == {key for view in VIEWS for key in view.keys}
    assert {name for view in VIEWS for name in view.inputs} <= set(grouped)
