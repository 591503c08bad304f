"""MLflow registry, logging of training runs, promotion gate and history of champions."""
