"""Splits by time: train, validation and test rows, each with its outcomes known in time."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

import pandas as pd

VALIDATION = timedelta(days=7)  # early stopping reads the last days before a split
TEST = timedelta(days=14)


@dataclass(frozen=True)
class Split:
    """Three periods without overlap, oldest first. Rows keep their order.

    train: outcomes known before the validation period begins. validation: the last days before the
    test period, for early stopping. test: predicted after everything above was known.

    Attributes:
        train_and_validation: all rows that a model may be trained on, in memory once: `train` is
            its first ``n_train`` rows, `validation` the others.
    """

    train_and_validation: pd.DataFrame
    n_train: int
    test: pd.DataFrame

    @classmethod
    def of(cls, train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame) -> Self:
        """The split with these rows; their index is replaced."""
        return cls(pd.concat([train, validation], ignore_index=True), len(train), test)

    @property
    def train(self) -> pd.DataFrame:
        return self.train_and_validation[: self.n_train]

    @property
    def validation(self) -> pd.DataFrame:
        return self.train_and_validation[self.n_train :]

    @property
    def parts(self) -> dict[str, pd.DataFrame]:
        """The three periods by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def split_by_time(
    examples: pd.DataFrame,
    as_of: datetime,
    validation: timedelta = VALIDATION,
    test: timedelta = TEST,
) -> Split:
    """Split the rows whose outcome was known at ``as_of``; the last days are the test rows.

    A test row is also due at ``as_of``: positive labels arrive later than negative ones, so that
    the newest known outcomes alone are mostly negative.

    Raises:
        ValueError: if a part would be empty.
    """
    known = examples[examples.outcome_known_at <= as_of]
    split = split_at(known, as_of - test, as_of, validation)
    return replace(split, test=split.test[split.test.due_at <= as_of])


def split_without_test(
    examples: pd.DataFrame, as_of: datetime, validation: timedelta = VALIDATION
) -> Split:
    """Train on every outcome known at ``as_of``; there is no test row.

    Args:
        examples: by event_timestamp.

    Raises:
        ValueError: if no outcome is known before the validation period, or examples are unsorted.
    """
    known = examples[examples.outcome_known_at <= as_of]
    known.index = pd.RangeIndex(len(known))  # `reset_index` would copy the rows
    is_validation = known.event_timestamp >= pd.Timestamp(as_of) - validation
    if is_validation.all():
        raise ValueError(
            f"training needs outcomes from before the last {validation} until {as_of}; all "
            f"{len(known)} known rows are newer: train later"
        )
    if not known.event_timestamp.is_monotonic_increasing:
        raise ValueError("examples must be sorted by event_timestamp, as `build_examples` does")
    return Split(known, int((~is_validation).sum()), known[:0])


def split_at(
    examples: pd.DataFrame,
    moment: datetime,
    until: datetime,
    validation: timedelta = VALIDATION,
) -> Split:
    """Train on outcomes known at ``moment``, test on predictions from ``moment`` to ``until``.

    Raises:
        ValueError: if a part would be empty.
    """
    validation_start = pd.Timestamp(moment) - validation
    predicted_at, known_at = examples.event_timestamp, examples.outcome_known_at
    split = Split.of(
        train=examples[known_at <= validation_start],
        validation=examples[(predicted_at >= validation_start) & (known_at <= moment)],
        test=examples[(predicted_at >= moment) & (predicted_at < until)],
    )
    for name, part in split.parts.items():
        if part.empty:
            raise ValueError(
                f"a split needs rows in every part; {name} has none. The {len(examples)} examples "
                f"are predicted from {predicted_at.min()} to {predicted_at.max()}, the split is at "
                f"{moment}, validation starts at {validation_start}, test ends before {until}. "
                "Choose a later moment or shorter periods"
            )
    return split
