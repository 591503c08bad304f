"""Features and entity keys computed from a request: one function each for training and serving."""

from collections.abc import Mapping

import numpy as np

from ontime.problem.definition import local_hour

REQUEST_FEATURES = {"request": ("local_hour_sin", "local_hour_cos")}


def request_features(columns: Mapping[str, np.ndarray], as_of: np.ndarray) -> dict[str, np.ndarray]:
    """The features named in `REQUEST_FEATURES`, float32 [n].

    The season is no feature: a model trained on four months has not seen the next ones.

    Args:
        columns: window_start, datetime64[us] UTC [n].
        as_of: the prediction time of each request, [n]; not used, it is the start of the window.
    """
    angle = 2 * np.pi * local_hour(columns["window_start"]) / 24
    return {
        "local_hour_sin": np.sin(angle).astype(np.float32),
        "local_hour_cos": np.cos(angle).astype(np.float32),
    }


def entity_key_columns(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The value of every entity key, [n] each.

    Args:
        columns: the fields of the request, [n] each.
    """
    return {"airport": columns["airport"], "local_hour": local_hour(columns["window_start"])}
