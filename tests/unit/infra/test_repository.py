"""Files for GitHub and editors: they parse, and what they call exists."""

import json
import re
import tomllib

import yaml

from ontime.settings import ROOT

TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_dependabot_watches_every_kind_of_pin() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    found = {(update["package-ecosystem"], update["directory"]) for update in updates}
    assert found == {
        ("pip", "/"), ("pip", "/infra/aws"), ("github-actions", "/"),
        ("docker", "/infra"), ("docker-compose", "/"),
    }  # fmt: skip
    for _, folder in found:
        assert (ROOT / folder.strip("/")).is_dir()


def test_issue_forms_have_the_fields_that_github_requires() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) >= 2
    for form in forms:
        content = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= content.keys()
        assert all(field["attributes"]["label"] for field in content["body"])


def test_hooks_and_the_container_call_what_exists() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for hook in hooks:
        program, *arguments = hook["entry"].split()
        assert program == ".venv/bin/python" or arguments[0] in TARGETS
        assert all((ROOT / name).exists() for name in arguments if name.endswith(".py"))
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"].removeprefix("make ") in TARGETS


def test_commands_of_the_pull_request_template_exist() -> None:
    text = (ROOT / ".github" / "pull_request_template.md").read_text()
    assert set(re.findall(r"`make ([a-z-]+)`", text)) <= TARGETS
    for name in re.findall(r"`([\w/.]+/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_workflows_call_tasks_that_exist_and_pinned_actions() -> None:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    expected = {"test.yml", "canary.yml", "release.yml", "pages.yml", "security.yml"}
    assert expected <= {path.name for path in workflows}
    for path in workflows:
        text = path.read_text()
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
        assert set(re.findall(r"^ *(?:- run:)? *make ([a-z0-9-]+)", text, re.MULTILINE)) <= TARGETS
        for action in re.findall(r"uses: (.+)", text):  # a tag can be moved; Dependabot reads it
            pinned = re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
            assert pinned or (ROOT / action).is_file(), action  # or another workflow of ours


def test_every_pinned_package_and_every_image_of_ours_is_scanned() -> None:
    text = (ROOT / ".github" / "workflows" / "security.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    files = re.findall(r"pip-audit.* --requirement (\S+)", text)
    assert files == ["constraints.txt", "infra/aws/requirements.txt"]
    assert all((ROOT / file).exists() for file in files)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    built = {service["image"] for service in services if "build" in service}
    assert set(jobs["images"]["strategy"]["matrix"]["image"]) == built
    assert jobs["images"]["steps"][-1]["with"]["exit-code"] == "1"


def test_a_release_is_tested_first_and_publishes_images_then_pages_and_notes() -> None:
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    needs = {name: job.get("needs") for name, job in release["jobs"].items()}
    assert needs == {"test": None, "images": "test", "pages": "images", "notes": "images"}


def test_the_changelog_has_a_dated_part_for_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    parts = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    assert parts[0] == ("Unreleased", "")
    assert version in [number for number, date in parts if date]
    assert all(date for number, date in parts if number != "Unreleased")
