"""Declarations of features: `View` (one table of stored features) and `FeatureSpec` (the inputs).

Plain dataclasses; importing this module loads neither torch nor Feast.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

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
    """

    name: str
    keys: Mapping[str, str]
    ttl: timedelta
    columns: Mapping[str, Range]
    nullable_columns: tuple[str, ...] = ()
    helper_columns: tuple[str, ...] = ()
    optional: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that the model reads."""
        return tuple(name for name in self.columns if name not in self.helper_columns)

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


@dataclass(frozen=True)
class FeatureSpec:
    """The model's inputs in order. `groups`: numeric inputs that are missing together.

    Raises:
        FeatureSpecError: if an input is listed twice, or a group names no numeric input.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = [*self.numeric, *self.categorical]
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise FeatureSpecError(f"an input is listed once; listed twice: {twice}")
        for group, names in self.groups.items():
            if unknown := sorted(set(names) - set(self.numeric)):
                raise FeatureSpecError(
                    f"group {group!r} may hold numeric inputs only; it holds {unknown}"
                )


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
    groups = {view.name: view.inputs for view in views}
    for group, names in request_features.items():
        groups[group] = groups.get(group, ()) + names
    numeric = tuple(name for names in groups.values() for name in names)
    return FeatureSpec(numeric, categorical, groups)


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
