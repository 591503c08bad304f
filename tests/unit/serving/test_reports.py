"""Reports are listed and returned, and no other file is."""

import os
from pathlib import Path

import pytest
from starlette.testclient import TestClient


def test_reports_are_listed_and_returned(api: TestClient, tmp_path: Path) -> None:
    assert api.get("/reports").json() == []
    folder = tmp_path / "reports" / "drift"
    folder.mkdir(parents=True)
    (folder / "week.html").write_text("<h1>drift</h1>")
    (folder / "notes.txt").write_text("not a report")

    assert [report["name"] for report in api.get("/reports").json()] == ["drift/week.html"]
    page = api.get("/reports/drift/week.html")
    assert page.text == "<h1>drift</h1>"
    assert page.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.json",
        "..%2Fsecret.json",
        "drift/..%2f..%2fsecret.json",
        "%2Fetc%2Fpasswd",
        "link.json",
        "notes.txt",
        "nothing.html",
        "a%00b.html",
        "x" * 5_000,
        "",
    ],
)
def test_no_other_file_is_returned(api: TestClient, tmp_path: Path, name: str) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "reports" / "notes.txt").write_text("no")
    (tmp_path / "reports" / "link.json").symlink_to(tmp_path / "secret.json")

    response = api.get(f"/reports/{name}")

    assert response.status_code in {200, 404} if name == "" else response.status_code == 404
    assert "no" != response.text != "{}"


def test_links_in_a_loop_and_names_outside_utf8_hide_no_other_report(
    api: TestClient, tmp_path: Path
) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "week.html").write_text("<h1>drift</h1>")
    (folder / "loop.html").symlink_to(folder / "loop.html")
    (folder / "gone.html").symlink_to(folder / "nothing.html")
    (folder / "outside.json").symlink_to("/etc/passwd")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.html")).write_text("a name that is not UTF-8")

    response = api.get("/reports")

    assert response.status_code == 200
    assert [report["name"] for report in response.json()] == ["week.html"]
    for name in ("loop.html", "gone.html", "%FF.html"):
        assert api.get(f"/reports/{name}").status_code == 404


def test_a_report_may_neither_reach_the_api_nor_change_its_type(
    api: TestClient, tmp_path: Path
) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "week.html").write_text("<script>fetch('/model/reload')</script>")

    headers = api.get("/reports/week.html").headers

    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src" not in policy
    assert policy.startswith("sandbox allow-scripts;")  # and nothing else is allowed
    assert headers["X-Content-Type-Options"] == "nosniff"
