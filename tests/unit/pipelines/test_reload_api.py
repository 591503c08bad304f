"""The flows authenticate themselves at the API."""

from typing import Any

import httpx
import pytest

from ontime.settings import Settings
from pipelines.retrain import reload_api


def test_the_reload_after_a_retrain_sends_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, str]] = []

    def post(url: str, headers: dict[str, str], **_: Any) -> httpx.Response:
        sent.append(headers)
        request = httpx.Request("POST", url)
        return httpx.Response(200, json={"model_version": "2", "swapped": True}, request=request)

    monkeypatch.setattr(httpx, "post", post)
    reload_api.fn(Settings(api_key="the-key"))
    assert sent == [{"Authorization": "Bearer the-key"}]
