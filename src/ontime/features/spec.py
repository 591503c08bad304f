"""Declarations of features: `View` (one table of stored features) and `FeatureSpec` (the inputs).

Plain dataclasses; importing this module loads neither torch nor Feast.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from itertools import accumulate
from typing import Self

import numpy as np

from ontime.data.tables import Column, Table

Range = tuple[float, float]  # lowest and highest allowed value


class FeatureSpecError(ValueError):
    """The declared features contradict each other; the message states rule and value."""


class EmptyView(ValueError):
    """A view has no rows, or none for any example, and is not declared optional."""


@dataclass(frozen=True)
class View:
    """One feature view: a Parquet table, a Feast feature view, and a group of model inputs.

    keys: entity key -> dtype ("string" or "int32").
    ttl: how long a row may be used; after it the features are stale.
    columns: feature -> allowed range; float32, NaN only where `nullable_columns` says so.
    helper_columns: float64, read by the request features and not by the model.
    optional: True if a source may leave the view without a row.
    events: of a view made by `View.of_events`, the number of events in a row; otherwise 0.
    """

    name: str
    keys: Mapping[str, str]
    ttl: timedelta
    columns: Mapping[str, Range]
    nullable_columns: tuple[str, ...] = ()
    helper_columns: tuple[str, ...] = ()
    optional: bool = False
    events: int = 0

    @classmethod
    def of_events(
        cls,
        name: str,
        keys: Mapping[str, str],
        ttl: timedelta,
        events: int,
        columns: Mapping[str, Range],
        helper_columns: tuple[str, ...] = (),
    ) -> Self:
        """A view whose rows are sequences: the columns of the last events of a key, newest first.

        Its SQL file gives one row per event, with its ``position`` in the sequence (1 is the
        newest); the builder makes them one row, with the columns of `event_names`. All are null
        after the oldest event. The model reads what the request features make of them.
        """
        ranges = list(columns.values()) * events
        flat = event_names(name, events, columns)
        return cls(
            name,
            keys,
            ttl,
            dict(zip(flat, ranges, strict=True)),
            nullable_columns=flat,
            helper_columns=event_names(name, events, helper_columns),
            events=events,
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that the model reads as they are stored."""
        if self.events:
            return ()
        return tuple(name for name in self.columns if name not in self.helper_columns)

    @property
    def event_columns(self) -> tuple[str, ...]:
        """The columns of one event, as the SQL file of a view of sequences names them."""
        newest = list(self.columns)[: len(self.columns) // self.events] if self.events else []
        return tuple(name.removeprefix(f"{self.name}_1_") for name in newest)

    @property
    def table(self) -> Table:
        """The schema of the view's Parquet table."""
        keys = {key: Column(dtype) for key, dtype in self.keys.items()}
        values = {
            name: Column(
                "float64" if name in self.helper_columns else "float32",
                *span,
                nullable=name in self.nullable_columns,
            )
            for name, span in self.columns.items()
        }
        times = {"event_timestamp": Column("timestamp")}
        grain = "one row per " + " x ".join([*self.keys, "event_timestamp"])
        return Table(self.name, grain, (*self.keys, "event_timestamp"), keys | values | times)


def event_names(view: str, events: int, columns: Iterable[str]) -> tuple[str, ...]:
    """``<view>_<position>_<column>``: all columns of the newest event, then of the one before."""
    return tuple(f"{view}_{i}_{column}" for i in range(1, events + 1) for column in columns)


@dataclass(frozen=True)
class FeatureSpec:
    """The model's inputs in order. `groups`: numeric inputs that are missing together.

    `sequences`: groups that hold as many events, newest first, each with the same inputs. They are
    the last numeric inputs. An event whose first input is missing is absent.

    Raises:
        FeatureSpecError: if an input is listed twice, a group names no numeric input, or the
            sequences are not the last inputs or cannot be divided into their events.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = [*self.numeric, *self.categorical]
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise FeatureSpecError(f"an input is listed once; listed twice: {twice}")
        for group, names in self.groups.items():
            if unknown := sorted(set(names) - set(self.numeric)):
                raise FeatureSpecError(
                    f"group {group!r} may hold numeric inputs only; it holds {unknown}"
                )
        last = tuple(name for group in self.sequences for name in self.groups.get(group, ()))
        if self.numeric[len(self.numeric) - len(last) :] != last:
            raise FeatureSpecError(
                f"the inputs of the sequences {list(self.sequences)} are the last numeric inputs, "
                f"in their order; these are {self.numeric[-3:]}"
            )
        for group, (events, width) in self.shapes.items():
            if not events * width or events * width != len(self.groups[group]):
                raise FeatureSpecError(
                    f"each event of a sequence has as many inputs; {group!r} has "
                    f"{len(self.groups[group])} inputs for {events} events"
                )

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Sequence -> its number of events, and of the inputs of an event."""
        return {name: (k, len(self.groups[name]) // k) for name, k in self.sequences.items()}

    @cached_property
    def tabular(self) -> tuple[str, ...]:
        """The numeric inputs that are in no sequence."""
        return self.numeric[: len(self.numeric) - sum(k * w for k, w in self.shapes.values())]

    @cached_property
    def places(self) -> dict[str, slice]:
        """Tabular input or sequence -> its places among the numeric inputs."""
        widths = dict.fromkeys(self.tabular, 1) | {n: k * w for n, (k, w) in self.shapes.items()}
        ends = accumulate(widths.values())
        return {
            name: slice(end - width, end)
            for (name, width), end in zip(widths.items(), ends, strict=True)
        }

    def matrix(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """The numeric inputs, float32 [n, f].

        Args:
            features: each tabular input [n], and each sequence [n, events, inputs of an event].
        """
        n = len(next(iter(features.values())))
        matrix = np.empty((n, len(self.numeric)), dtype=np.float32)
        for name, places in self.places.items():
            matrix[:, places] = features[name].reshape(n, -1)
        return matrix


def feature_spec(
    views: Iterable[View],
    request_features: Mapping[str, tuple[str, ...]],
    categorical: tuple[str, ...],
) -> FeatureSpec:
    """The model's inputs: each view's columns, then those computed from the request.

    Args:
        request_features: group -> names. A group that is a view's name joins that view's group:
            its features are missing whenever the view is.
    """
    views = list(views)
    groups = {view.name: view.inputs for view in views}
    for group, names in request_features.items():
        groups[group] = groups.get(group, ()) + names
    sequences = {view.name: view.events for view in views if view.events}
    groups = {name: groups[name] for name in sorted(groups, key=lambda name: name in sequences)}
    numeric = tuple(name for names in groups.values() for name in names)
    return FeatureSpec(numeric, categorical, groups, sequences)


def entity_keys(views: Iterable[View]) -> dict[str, str]:
    """Every entity key of the views with its dtype, in order of appearance.

    Raises:
        FeatureSpecError: if two views declare one key with different dtypes.
    """
    keys: dict[str, str] = {}
    for view in views:
        for key, dtype in view.keys.items():
            if keys.setdefault(key, dtype) != dtype:
                raise FeatureSpecError(
                    f"an entity key has one dtype; {key!r} is {keys[key]} and {dtype}"
                )
    return keys
