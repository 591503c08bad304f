"""Bounds the time of every call to the registry.

MLflow bounds single reads from a socket, not a whole call, and its SQLite store waits for locks: a
call may last for minutes. Each call runs in a thread of its own and is given up after its timeout.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ontime.errors import ModelError, RegistryUnavailable
from serving.model_loader import Registry

RESOLVE_TIMEOUT_S = 10.0
DOWNLOAD_TIMEOUT_S = 120.0
MAX_CALLS = 2  # one for the champion and one for the challenger, also counting those given up

Result = TypeVar("Result")


@dataclass(frozen=True)
class BoundedRegistry:
    """A registry on which each call ends in time, and every failure is `RegistryUnavailable`."""

    registry: Registry
    _slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_CALLS))

    def resolve(self, alias: str) -> str | None:
        return self._call(RESOLVE_TIMEOUT_S, lambda: self.registry.resolve(alias))

    def download(self, version: str, to: Path) -> Path:
        return self._call(DOWNLOAD_TIMEOUT_S, lambda: self.registry.download(version, to))

    def verify(self, version: str, folder: Path) -> None:
        self._call(RESOLVE_TIMEOUT_S, lambda: self.registry.verify(version, folder))

    def _call(self, timeout_s: float, call: Callable[[], Result]) -> Result:
        if not self._slots.acquire(blocking=False):
            raise RegistryUnavailable(f"{MAX_CALLS} earlier calls to the registry have not ended")
        result: Future[Result] = Future()

        def run() -> None:
            try:
                value = call()
            except Exception as error:
                self._slots.release()
                result.set_exception(error)
            else:
                self._slots.release()
                result.set_result(value)

        # A daemon, unlike the threads of an executor: a hung call does not delay the shutdown.
        threading.Thread(target=run, name="registry", daemon=True).start()
        try:
            return result.result(timeout_s)
        except (RegistryUnavailable, ModelError):  # also weights that are not the registered ones
            raise
        except TimeoutError as error:
            raise RegistryUnavailable(f"the registry must respond in {timeout_s} s") from error
        except Exception as error:  # a corrupt database raises many types
            raise RegistryUnavailable(f"the registry failed: {error!r}") from error
