"""Reasons for which the API refuses a request that is valid in itself."""


class NotAuthenticated(RuntimeError):
    """The request has no API key, or one that is not valid."""


class HostNotAllowed(RuntimeError):
    """The Host header is none of ONTIME_ALLOWED_HOSTS."""


class NotAllowed(RuntimeError):
    """The key of the request does not have the scope that it needs."""


class TooManyRequests(RuntimeError):
    """A limit of a client is reached; the request may be repeated after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoApiKey(RuntimeError):
    """In production the API starts with at least one API key."""


class OutcomeTooEarly(ValueError):
    """An outcome is reported as known before it can be."""

    def __init__(self, field: str, rule: str, value: str) -> None:
        super().__init__(rule)
        self.field, self.value = field, value
