"""The demo's API process; the whole loop is in test_loop."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ontime.settings import Settings
from simulation.demo import ApiProcess


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a free port, which is free again when the test starts."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        monkeypatch.setenv("ONTIME_API_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
    monkeypatch.setenv("ONTIME_DATA_DIR", str(tmp_path))
    return Settings()


@pytest.fixture
def api(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiProcess]:
    """An API whose process only waits, and which has no champion yet."""
    api = ApiProcess(settings)
    api.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(httpx, "get", lambda url, **_: httpx.Response(503))
    yield api
    api.stop()


def test_a_port_that_another_process_uses_ends_the_demo_before_anything_is_done(
    settings: Settings,
) -> None:
    port = int(settings.api_url.rsplit(":", 1)[1])
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(RuntimeError, match=f":{port}, which another process uses"),
    ):
        ApiProcess(settings)


def test_a_reload_that_the_api_refuses_ends_the_wait(
    api: ApiProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = httpx.Request("POST", f"{api.url}/model/reload")
    answers = [httpx.Response(409, request=request), httpx.Response(401, request=request)]
    monkeypatch.setattr(httpx, "post", lambda url, **_: answers.pop(0))

    with pytest.raises(httpx.HTTPStatusError, match="401"):
        api.wait_until_ready()

    assert not answers  # 409, while the API polls, was no reason to stop


def test_the_key_is_read_after_the_api_has_made_it(
    api: ApiProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONTIME_API_KEY", "")
    api.settings = Settings()
    sent: list[str] = []

    def post(url: str, headers: dict[str, str], **_: object) -> httpx.Response:
        sent.append(headers.get("Authorization", ""))
        api.settings.api_key_file.write_text("made by the API")
        if len(sent) == 2:
            monkeypatch.setattr(httpx, "get", lambda url, **_: httpx.Response(200))
        return httpx.Response(409)

    monkeypatch.setattr(httpx, "post", post)

    api.wait_until_ready()

    assert sent == ["", "Bearer made by the API"]
