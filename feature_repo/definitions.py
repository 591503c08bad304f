"""Feast's definitions: entities, feature views and the feature service, made from the views.

Applied by ``make features``, or by Feast's command line: ``feast -c feature_repo apply``.
"""

from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32, Float64

from ontime.features.feast_config import FEATURE_SERVICE
from ontime.features.spec import View
from ontime.problem import ENTITY_KEYS, VIEWS
from ontime.settings import Settings

ENTITIES = {
    key: Entity(
        name=key,
        join_keys=[key],
        value_type=ValueType.STRING if dtype == "string" else ValueType.INT32,
    )
    for key, dtype in ENTITY_KEYS.items()
}


def feature_view(view: View, features_dir: str | Path) -> FeatureView:
    """Feast's view of ``features_dir/<view>.parquet``; Feast requires an absolute path or URL."""
    return FeatureView(
        name=view.name,
        entities=[ENTITIES[key] for key in view.keys],
        ttl=view.ttl,
        schema=[
            Field(name=name, dtype=Float64 if name in view.helper_columns else Float32)
            for name in view.columns
        ],
        source=FileSource(
            name=f"{view.name}_rows",
            path=f"{features_dir}/{view.name}.parquet",
            timestamp_field="event_timestamp",
        ),
    )


def definitions(features_dir: str | Path) -> list[Any]:
    """All entities, then all feature views, then the service that training and serving read."""
    views = [feature_view(view, features_dir) for view in VIEWS]
    service = FeatureService(name=FEATURE_SERVICE, features=[*views])
    return [*ENTITIES.values(), *views, service]


# Feast's command line registers the attributes of this module, not the elements of a list.
globals().update({each.name: each for each in definitions(Settings().features_dir)})
