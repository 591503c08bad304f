"""Verified copies of model versions on disk: start-up and rollback work without the registry.

    <root>/<version>/            the model's files and checksums.json
    <root>/deployed.json         versions that were deployed, newest first

A copy appears complete (written to a temporary folder, then renamed). Its SHA-256 sums are checked
before every use; a damaged copy is downloaded again.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ontime.data.files import atomic_write

CHECKSUMS = "checksums.json"
MAX_VERSIONS = 3  # the champion, the previous one for a rollback, and one more


class ModelCache:
    def __init__(self, root: Path) -> None:
        self.root = root

    def fetch(self, version: str, download: Callable[[str, Path], Path]) -> Path:
        """The folder of a version; without an intact copy, ``download(version, to)`` makes one."""
        if not self._is_intact(version):
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.root, prefix="incoming-") as temporary:
                copy = download(version, Path(temporary) / "model")
                (copy / CHECKSUMS).write_text(json.dumps(_checksums(copy)))
                self.discard(version)
                copy.rename(self.root / version)
        return self.root / version

    def deployed(self) -> list[str]:
        """The cached versions that were deployed, newest first."""
        try:
            return [str(version) for version in json.loads(self._deployed.read_text())]
        except (OSError, ValueError):
            return []

    def mark_deployed(self, version: str) -> None:
        """Put a version first in the list, and delete the copies that are not in it."""
        versions = [version, *(other for other in self.deployed() if other != version)]
        versions = versions[:MAX_VERSIONS]
        with atomic_write(self._deployed) as path:
            path.write_text(json.dumps(versions))
        for folder in self.root.iterdir():
            if folder.is_dir() and folder.name not in versions:
                self.discard(folder.name)

    def discard(self, version: str) -> None:
        shutil.rmtree(self.root / version, ignore_errors=True)

    @property
    def _deployed(self) -> Path:
        return self.root / "deployed.json"

    def _is_intact(self, version: str) -> bool:
        try:
            expected = json.loads((self.root / version / CHECKSUMS).read_text())
        except (OSError, ValueError):
            return False
        return bool(expected == _checksums(self.root / version))


def _checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS
    }
