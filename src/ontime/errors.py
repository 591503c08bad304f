"""Exceptions that cross a package border. Importing this module loads nothing else.

ModelError                  a model, its files or its input break a rule
RegistryUnavailable         the model registry or its artifact store does not respond
OnlineStoreUnavailable      the online feature store does not respond
PredictionLogUnavailable    the prediction log's database does not respond, or is not migrated
DuplicateRequest            a request id is in the prediction log already
ChampionChanged             another process changed the champion meanwhile
"""


class ModelError(ValueError):
    """A model, its files or its input break a rule; the message states rule, value and fix."""


class RegistryUnavailable(RuntimeError):
    """The model registry or its artifact store did not respond in time."""


class OnlineStoreUnavailable(RuntimeError):
    """The online feature store did not respond in time, or does not exist yet."""


class PredictionLogUnavailable(RuntimeError):
    """The prediction log does not respond, or has another schema; no response is sent unlogged."""


class DuplicateRequest(RuntimeError):
    """A request id is in the prediction log already; the logged response is sent again."""


class ChampionChanged(RuntimeError):
    """Another promotion or rollback changed the champion since the caller read it."""
