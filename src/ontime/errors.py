"""Exceptions that cross a package border. Importing this module loads nothing else.

The message of an `Unavailable` names addresses and causes and is for the log; its `public_detail`
is what a client of the API reads.

ModelError                  a model, its files or its input break a rule
RegistryUnavailable         the model registry or its artifact store does not respond
OnlineStoreUnavailable      the online feature store does not respond
PredictionLogUnavailable    the prediction log's database does not respond, or is not migrated
DuplicateRequest            a request id is in the prediction log already
ChampionChanged             another process changed the champion meanwhile
"""


class ModelError(ValueError):
    """A model, its files or its input break a rule; the message states rule, value and fix."""


class Unavailable(RuntimeError):
    """A service that the system needs does not respond."""

    public_detail: str


class RegistryUnavailable(Unavailable):
    """The model registry or its artifact store did not respond in time."""

    public_detail = "the model registry does not respond"


class OnlineStoreUnavailable(Unavailable):
    """The online feature store did not respond in time, or does not exist yet."""

    public_detail = "a prediction needs the online feature store, which does not respond"


class PredictionLogUnavailable(Unavailable):
    """The prediction log does not respond, or has another schema; no response is sent unlogged."""

    public_detail = "a prediction needs the prediction log, which does not work"


class DuplicateRequest(RuntimeError):
    """A request id is in the prediction log already; the logged response is sent again."""


class ChampionChanged(RuntimeError):
    """Another promotion or rollback changed the champion since the caller read it."""
