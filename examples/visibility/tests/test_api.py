"""The rules of a request and of an outcome."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from ontime.problem import EXAMPLE_AS_OF, EXAMPLE_INSTANCE, EXAMPLE_OUTCOME, Instance, Outcome

AS_OF = datetime.fromisoformat(EXAMPLE_AS_OF)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"airport": "BOS"}, "'EWR', 'JFK' or 'LGA'"),
        ({"window_start": "2013-05-01T14:30:00Z"}, "a whole hour"),
        ({"window_start": "2013-05-01T14:00:00"}, "offset"),
        ({"visibility": 3}, "Extra inputs"),
    ],
)
def test_an_instance_that_breaks_a_rule_is_invalid(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Instance.model_validate(EXAMPLE_INSTANCE | changes)


def test_a_window_is_predicted_in_its_first_hour_only() -> None:
    instance = Instance.model_validate(EXAMPLE_INSTANCE)
    for seconds in (0, 3_599):
        instance.check_as_of(AS_OF + timedelta(seconds=seconds))
    for seconds in (-1, 3_600):
        with pytest.raises(PydanticCustomError, match="less than one hour after"):
            instance.check_as_of(AS_OF + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_visibility_mi": -0.1}, "greater than or equal to 0"),
        ({"min_visibility_mi": "3"}, "valid number"),
    ],
)
def test_an_outcome_that_breaks_a_rule_is_invalid(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Outcome.model_validate(EXAMPLE_OUTCOME | changes)


def test_an_outcome_is_known_at_the_end_of_its_window() -> None:
    instance = Instance.model_validate(EXAMPLE_INSTANCE)
    outcome = Outcome.model_validate(EXAMPLE_OUTCOME)
    assert outcome.earliest_known_at(instance) == outcome.known_at


@pytest.mark.parametrize(("visibility", "label"), [(0.0, True), (2.99, True), (3.0, False)])
def test_below_three_miles_is_low(visibility: float, label: bool) -> None:
    outcome = Outcome.model_validate(EXAMPLE_OUTCOME | {"min_visibility_mi": visibility})
    assert outcome.label is label
    assert outcome.details == {"min_visibility_mi": visibility}
    assert outcome.instance_id == Instance.model_validate(EXAMPLE_INSTANCE).instance_id
