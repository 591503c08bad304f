"""Copies of models: verified before use, limited in number."""

from pathlib import Path

import pytest

from serving.model_cache import MAX_VERSIONS, ModelCache


def download(version: str, to: Path) -> Path:
    to.mkdir()
    (to / "model.json").write_text(version)
    return to


def no_download(version: str, to: Path) -> Path:
    raise AssertionError("an intact copy is not downloaded again")


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


def test_a_version_is_downloaded_once(cache: ModelCache) -> None:
    first = cache.fetch("1", download)

    assert cache.fetch("1", no_download) == first
    assert (first / "model.json").read_text() == "1"


def test_a_damaged_copy_is_downloaded_again(cache: ModelCache) -> None:
    (cache.fetch("1", download) / "model.json").write_text("damaged")

    assert (cache.fetch("1", download) / "model.json").read_text() == "1"


def test_a_failed_download_leaves_nothing(cache: ModelCache) -> None:
    def interrupted(version: str, to: Path) -> Path:
        download(version, to)
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        cache.fetch("1", interrupted)

    assert list(cache.root.iterdir()) == []


def test_the_versions_deployed_last_are_kept(cache: ModelCache) -> None:
    versions = [str(n) for n in range(MAX_VERSIONS + 2)]
    for version in versions:
        cache.fetch(version, download)
        cache.mark_deployed(version)

    newest_first = versions[::-1][:MAX_VERSIONS]
    assert cache.deployed() == newest_first
    assert {path.name for path in cache.root.iterdir() if path.is_dir()} == set(newest_first)


def test_without_a_readable_list_no_version_was_deployed(cache: ModelCache) -> None:
    assert cache.deployed() == []
    cache.root.mkdir()
    (cache.root / "deployed.json").write_text("{")

    assert cache.deployed() == []
