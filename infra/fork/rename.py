"""Gives the project another name: `make rename NAME=skylate`.

Renames the package, the prefix of the settings, the registered model, and the names in Docker,
Kubernetes, Grafana, Prometheus and the documentation; then sorts the imports and formats.
"""

import argparse
import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

from infra.fork.clone import ROOT, git, project_files

# One name for all uses: a Python package, a Kubernetes namespace, a database, a metric's prefix.
PATTERN = re.compile(r"[a-z][a-z0-9]{1,29}")


class NameRejected(ValueError):
    """The name breaks a rule; the message states rule, value and fix."""


def rename(root: Path, new: str) -> list[str]:
    """Rename the project in the folder ``root``; returns what its owner has to know or do.

    Raises:
        NameRejected: if the name cannot be used; nothing is changed then.
    """
    old = project_name(root)
    files = project_files(root)
    check_name(root, new, files)
    if (root / ".env").exists():
        files = [*files, Path(".env")]  # not tracked, and its settings have the prefix
    texts = {path: _text(root / path) for path in files}
    changed = {path for path, text in texts.items() if replaced(text, old, new) != text}
    for path in changed:
        (root / path).write_text(replaced(texts[path], old, new))
    moved = _move(root, files, old, new)
    too_long = _format(root)

    notes = [f"{old} is {new} now: {len(changed)} files changed, {moved} of {len(files)} moved"]
    if too_long:
        notes.append(f"{too_long} lines became longer than allowed and end in `noqa: E501` now")
    if (root / "var" / "mlflow").exists():
        notes.append(f"var holds the models and tables of {old}: move it away, or `make clean`")
    notes.append(f"Docker volumes of {old}: `docker compose -p {old} down --volumes` removes them")
    return notes


def project_name(root: Path) -> str:
    """The present name of the project, from its pyproject.toml."""
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["name"])


def check_name(root: Path, name: str, files: list[Path]) -> None:
    """Raise `NameRejected` unless the project can have this name."""
    if not PATTERN.fullmatch(name):
        rule = "a name has 2 to 30 lower-case letters and digits and starts with a letter"
    elif keyword.iskeyword(name) or keyword.issoftkeyword(name):
        rule = "a name is not a keyword of Python"
    elif name in sys.stdlib_module_names:
        rule = "a name is not that of a module of Python's standard library"
    elif name in {part for path in files for part in (*path.parts[:-1], path.stem)}:
        rule = "a name is not that of a folder or file of this project"
    elif re.search(rf"^{name}\b", (root / "constraints.txt").read_text(), re.MULTILINE):
        rule = "a name is not that of a dependency in constraints.txt"
    elif importlib.util.find_spec(name) is not None:
        rule = "a name is not that of a module that can be imported"
    elif (prefix := f"{name.upper()}_") in _code(root, files):
        rule = f"a name in capitals is not the prefix of other variables, and {prefix} is"
    else:
        return
    raise NameRejected(f"{rule}; this one is {name!r}. Choose another: make rename NAME=skylate")


def replaced(text: str, old: str, new: str) -> str:
    """The text with the old name, as a word or a part of an identifier, replaced in each case."""
    for before, after in ((old, new), (old.upper(), new.upper()), (old.title(), new.title())):
        # A letter before the name belongs to another word, unless it is an escape like "\n".
        text = re.sub(rf"((?<![A-Za-z0-9])|(?<=\\[bnrt])){before}(?![A-Za-z0-9])", after, text)
    return text


def forget_environment(root: Path, old: str) -> None:
    """Uninstall the package of the old name, and mark the environment as out of date."""
    packages = Path(sysconfig.get_path("purelib"))
    if packages.is_relative_to(root / ".venv") and any(packages.glob(f"{old}-*.dist-info")):
        uninstall = [sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", old]
        subprocess.run(uninstall, cwd=root, check=True)
        (root / ".venv" / ".installed").unlink(missing_ok=True)


def _text(path: Path) -> str:
    """The text of a file; of a picture, none."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def _code(root: Path, files: list[Path]) -> str:
    return "\n".join(_text(root / path) for path in files if path.suffix != ".md")


def _move(root: Path, files: list[Path], old: str, new: str) -> int:
    """Move every file whose path contains the old name; returns how many."""
    moves = {path: Path(replaced(str(path), old, new)) for path in files}
    moves = {path: target for path, target in moves.items() if path != target}
    for path, target in moves.items():
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        (root / path).rename(root / target)
    shutil.rmtree(root / "src" / old)  # compiled files
    return len(moves)


def _format(root: Path) -> int:
    """Sort imports and format; returns how many lines of text are too long and were marked."""

    def ruff(*arguments: str) -> str:
        command = [sys.executable, "-m", "ruff", *arguments, "--quiet"]
        return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout

    ruff("check", "--fix", "--exit-zero")
    ruff("format")
    too_long = ruff("check", "--select=E501", "--output-format=concise", "--exit-zero")
    ruff("check", "--select=E501", "--add-noqa")
    return len(too_long.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--allow-dirty", action="store_true", help="with uncommitted changes, too")
    arguments = parser.parse_args()
    try:
        changes = git(ROOT, "status", "--porcelain")
    except subprocess.CalledProcessError:
        parser.error("only in a git repository, to undo it: git init && git add . && git commit")
    if changes and not arguments.allow_dirty:
        parser.error(
            f"the tree has no uncommitted changes; it has {len(changes.splitlines())}. "
            "Commit or stash them, or: make rename NAME=... ALLOW_DIRTY=1"
        )
    old = project_name(ROOT)
    try:
        notes = rename(ROOT, arguments.name)
    except NameRejected as rejected:
        parser.error(str(rejected))
    forget_environment(ROOT, old)
    print(*notes, "Now: make test", sep="\n")


if __name__ == "__main__":
    main()
