"""`make rename`: a copy of the project under another name is complete, clean and importable."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.fork.clone import ROOT, clone, git, project_files, share_environment
from infra.fork.rename import NameRejected, check_name, project_name, rename, replaced

OLD = project_name(ROOT)
NEW = OLD[::-1]  # no name of this project, also after it was renamed


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A renamed copy of the project, with a person's settings in .env."""
    folder = tmp_path_factory.mktemp("renamed")
    clone(folder)
    (folder / ".env").write_text(f"{OLD.upper()}_SHADOW=false\n")
    (folder / "var/mlflow").mkdir(parents=True)
    notes = rename(folder, NEW)
    assert f"{OLD} is {NEW} now" in notes[0]
    assert any("var holds" in note for note in notes)
    assert f"docker compose -p {OLD} down --volumes" in notes[-1]
    return folder


def files(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and text of every file of a copy, the ignored .env included."""
    for path in (*project_files(folder), Path(".env")):
        data = (folder / path).read_bytes()
        yield str(path), data.decode(errors="ignore")


def test_no_word_of_the_old_name_is_left(renamed: Path) -> None:
    entries = [f"{path}\n{text}" for path, text in files(renamed)]
    assert [entry for entry in entries if replaced(entry, OLD, NEW) != entry] == []


def test_every_file_is_there_under_its_new_path(renamed: Path) -> None:
    expected = {replaced(str(path), OLD, NEW) for path in project_files(ROOT)}
    assert {str(path) for path in project_files(renamed)} == expected
    assert not (renamed / "src" / OLD).exists()


def test_ruff_finds_nothing(renamed: Path) -> None:
    for command in (["check", "."], ["format", "--check", "."]):
        ruff = [sys.executable, "-m", "ruff", *command]
        done = subprocess.run(ruff, cwd=renamed, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_every_file_compiles_and_the_settings_have_the_new_prefix(renamed: Path) -> None:
    share_environment(renamed)
    python = renamed / ".venv/bin/python"
    folders = ("src", "serving", "pipelines", "simulation", "experiments", "infra", "tests")
    subprocess.run([python, "-m", "compileall", "-q", *folders], cwd=renamed, check=True)
    program = f"import {NEW}.settings as s; print(s.Settings().shadow, s.ROOT)"
    done = subprocess.run([python, "-c", program], cwd=renamed, check=True, capture_output=True)
    assert done.stdout.decode().split() == ["False", str(renamed)]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "lower-case letters and digits"),
        ("Skylate", "lower-case letters and digits"),
        ("sky_line", "lower-case letters and digits"),
        ("2sky", "starts with a letter"),
        ("s" * 31, "2 to 30"),
        ("lambda", "keyword"),
        ("match", "keyword"),
        ("json", "standard library"),
        ("serving", "folder or file of this project"),
        ("gate", "folder or file of this project"),
        ("torch", "dependency"),
        ("pyyaml", "dependency"),
        ("yaml", "can be imported"),
        ("mlflow", "dependency"),
        ("gf", "prefix of other variables, and GF_ is"),
    ],
)
def test_an_unusable_name_is_rejected_with_rule_and_value(name: str, rule: str) -> None:
    with pytest.raises(NameRejected, match=rule) as rejected:
        check_name(ROOT, name, project_files(ROOT))
    assert f"this one is {name!r}" in str(rejected.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import gate.data, gateway", "import door.data, gateway"),
        ('"\\nGATE_X=1" gate_total', '"\\nDOOR_X=1" door_total'),
        ("Gate, gate-serving; investigate", "Door, door-serving; investigate"),
    ],
)
def test_the_name_is_replaced_as_a_word_in_each_case(text: str, expected: str) -> None:
    assert replaced(text, "gate", "door") == expected


def test_uncommitted_changes_are_kept_unless_it_is_said(tmp_path: Path) -> None:
    clone(tmp_path)
    (tmp_path / "README.md").write_text("a change")
    command = [sys.executable, "-m", "infra.fork.rename", NEW]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no uncommitted changes; it has 1" in done.stderr
    assert git(tmp_path, "status", "--porcelain") == " M README.md\n"
    subprocess.run([*command, "--allow-dirty"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "src" / NEW).is_dir()
