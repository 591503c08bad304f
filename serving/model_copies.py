"""Verified copies of models on disk: the API starts again, and goes back, without the registry.

    <root>/<version>/            the model's files and CHECKSUMS
    <root>/served.json           versions that served, newest first

A copy appears whole (written beside, then renamed) and is checked against its SHA-256 sums before
every use; one that does not match is fetched again.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

CHECKSUMS = "checksums.json"
KEPT = 3  # the champion, the one before it for a rollback, and one to spare


class ModelCopies:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._served = root / "served.json"

    def fetch(self, version: str, download: Callable[[Path], Path]) -> Path:
        """The directory of a version; `download(to)` is called unless an intact copy is here."""
        if not self.intact(version):
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.root, prefix="incoming-") as incoming:
                verified = Path(incoming) / "verified"
                shutil.copytree(download(Path(incoming) / "download"), verified)
                (verified / CHECKSUMS).write_text(json.dumps(_checksums(verified)))
                self.discard(version)
                verified.rename(self.root / version)
        return self.root / version

    def intact(self, version: str) -> bool:
        directory = self.root / version
        try:
            expected = json.loads((directory / CHECKSUMS).read_text())
        except (OSError, ValueError):
            return False
        return bool(expected == _checksums(directory))

    def served(self) -> list[str]:
        """Versions that served, newest first, of which copies are kept."""
        try:
            return [str(version) for version in json.loads(self._served.read_text())]
        except (OSError, ValueError):
            return []

    def note_served(self, version: str) -> None:
        served = [version, *(other for other in self.served() if other != version)][:KEPT]
        unfinished = self._served.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(served))
        unfinished.replace(self._served)
        for directory in self.root.iterdir():
            if directory.is_dir() and directory.name not in served:
                self.discard(directory.name)

    def discard(self, version: str) -> None:
        shutil.rmtree(self.root / version, ignore_errors=True)


def _checksums(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS
    }
