"""Reported outcomes, checked against the instances that were predicted."""

from pydantic import ValidationError

from ontime.problem import Instance
from ontime.storage.outcomes import OutcomeLog
from ontime.storage.schema import LoggedOutcome
from serving.problems import OutcomeTooEarly
from serving.schemas import OutcomesRequest


def logged_outcomes(log: OutcomeLog, request: OutcomesRequest) -> list[LoggedOutcome]:
    """The rows of a report.

    Raises:
        OutcomeTooEarly: if one was known before it could be: a guess, and not an outcome.
    """
    predicted = log.predicted_instances(outcome.instance_id for outcome in request.outcomes)
    for number, outcome in enumerate(request.outcomes):
        try:
            instance = Instance.model_validate(predicted[outcome.instance_id])
        except (KeyError, ValidationError):  # never predicted, or under the rules of another time
            continue
        if outcome.known_at < (earliest := outcome.earliest_known_at(instance)):
            raise OutcomeTooEarly(
                f"outcomes[{number}].known_at",
                f"this outcome cannot be known before {earliest.isoformat()}",
                outcome.known_at.isoformat(),
            )
    return [LoggedOutcome(o.instance_id, o.label, o.details, o.known_at) for o in request.outcomes]
