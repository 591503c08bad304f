"""What Feast knows: entities, feature views and the one feature service, made from `VIEWS`.

Applied by `pipelines/materialize.py`, or by hand: ``feast -c feature_repo apply``.
"""

from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32, Float64, PrimitiveFeastType

from ontime.feature_store import SERVICE
from ontime.features import KEY_TYPES, VIEWS, View
from ontime.settings import Settings

FEATURES = Settings().features_dir

ENTITIES = {
    key: Entity(
        name=key,
        join_keys=[key],
        value_type=ValueType.STRING if dtype == "string" else ValueType.INT32,
    )
    for key, dtype in KEY_TYPES.items()
}


def feature_view(view: View) -> FeatureView:
    """One view as Feast sees it. Paths are absolute: Feast resolves relative ones differently."""

    def dtype(name: str) -> PrimitiveFeastType:
        return Float64 if name in view.hidden else Float32

    return FeatureView(
        name=view.name,
        entities=[ENTITIES[key] for key in view.keys],
        ttl=view.ttl,
        schema=[Field(name=name, dtype=dtype(name)) for name in view.columns],
        source=FileSource(
            name=f"{view.name}_rows",
            path=str(FEATURES / f"{view.name}.parquet"),
            timestamp_field="event_timestamp",
        ),
    )


FEATURE_VIEWS = [feature_view(view) for view in VIEWS]

# Everything the model reads about a flight, in one call, for training and serving alike.
FLIGHT_FEATURES = FeatureService(name=SERVICE, features=[*FEATURE_VIEWS])

DEFINITIONS: list[Any] = [*ENTITIES.values(), *FEATURE_VIEWS, FLIGHT_FEATURES]

# Feast's command line registers what it finds as attributes of this module, not inside a list.
globals().update(ENTITIES | {view.name: view for view in FEATURE_VIEWS})
