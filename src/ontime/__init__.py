"""The library: a prediction problem, its features, models, evaluation, registry and logs."""
