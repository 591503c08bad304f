"""A copy of this repository in another folder, with the packages of this environment."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def git(root: Path, *arguments: str) -> str:
    """The output of a git command, without the user's hooks.

    Raises:
        subprocess.CalledProcessError: if git fails, e.g. outside a repository.
    """
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def project_files(root: Path) -> list[Path]:
    """Every file that git tracks, or would track after `git add --all`; relative paths, sorted."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    paths = {Path(name) for name in listed if name}
    return sorted(path for path in paths if (root / path).is_file())


def clone(folder: Path) -> None:
    """Copy the files of the project, as they are now, into a new repository of one commit."""
    for path in project_files(ROOT):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    author = ("-c", "user.name=fork", "-c", "user.email=fork@localhost")
    git(folder, *author, "-c", "commit.gpgSign=false", "commit", "--quiet", "--message=clone")


def share_environment(folder: Path) -> None:
    """Make a .venv with the packages of this environment and the copy's own `src`.

    The .pth files among these packages are not read, so that the source of this repository, an
    editable install, is not on the copy's path.
    """
    environment = folder / ".venv"
    venv.create(environment, symlinks=True, with_pip=False)
    own_packages = sysconfig.get_path("purelib", "venv", vars={"base": str(environment)})
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    paths = [str(folder / "src"), *shared]
    Path(own_packages, "fork.pth").write_text("".join(f"{path}\n" for path in paths))
    (environment / ".installed").touch()  # newer than pyproject.toml: make installs nothing
