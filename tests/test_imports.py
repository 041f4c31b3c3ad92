"""Imports run one way: between the programs, between their folders, and below their commands.

    preprocess -> shared <- train         `shared` needs numpy and h5py alone
    commands -> folders -> lower folders  no folder imports one that needs it, however indirectly

An import counts everywhere: also in a function, and below `if TYPE_CHECKING`.
"""

import ast
import subprocess
import sys
from collections import defaultdict, deque
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("preprocess", "train")
FILES = sorted(
    path for folder in ("preprocess", "shared", "train") for path in (ROOT / folder).rglob("*.py")
)


def module_name(path: Path) -> str:
    """`preprocess/flow/raft.py` -> `preprocess.flow.raft`; a folder's name for its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, wherever in the file.

    `from a.b import c` gives a.b and a.b.c; one of them is a module.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


IMPORTS = {module_name(path): imported_names(path) for path in FILES}  # module -> names


# --------------------------------------------------------------------------------------------------
# The rules, on any {module: names that it imports}


def place_of(module: str) -> str:
    """The folder of a program that a module lies in, or the module itself on top of the program."""
    return "/".join(module.split(".")[:2])


def place_graph(imports: dict[str, set[str]], program: str) -> dict[str, dict[str, str]]:
    """Place -> {place that it imports: an import that does}, for the places of one program."""
    graph: dict[str, dict[str, str]] = defaultdict(dict)
    for module, names in sorted(imports.items()):
        for name in sorted(names):
            if not name.startswith(f"{program}.") or not module.startswith(f"{program}."):
                continue
            if place_of(name) != place_of(module):
                graph[place_of(module)].setdefault(place_of(name), f"{module} imports {name}")
    return graph


def circles(imports: dict[str, set[str]], program: str) -> list[str]:
    """Each shortest circle of places that import each other, with an import for each step."""
    graph = place_graph(imports, program)
    found: dict[frozenset[str], str] = {}
    for start in sorted(graph):
        path = shortest_way(graph, start, start)
        if path and frozenset(path) not in found:
            steps = [graph[one][other] for one, other in pairwise(path)]
            found[frozenset(path)] = " -> ".join(path) + f" ({'; '.join(steps)})"
    return list(found.values())


def shortest_way(graph: dict[str, dict[str, str]], first: str, last: str) -> list[str]:
    """Places from the first to the last, both included, along at least one import; [] = no way."""
    paths, seen = deque([[first]]), set()
    while paths:
        path = paths.popleft()
        for place in graph.get(path[-1], ()):
            if place == last:
                return [*path, place]
            if place not in seen:
                seen.add(place)
                paths.append([*path, place])
    return []


def imports_of_commands(imports: dict[str, set[str]], commands: set[str]) -> list[str]:
    """Each import of a command by another module."""
    return [
        f"{module} imports {name}"
        for module, names in sorted(imports.items())
        for name in sorted(names)
        if any(name == one or name.startswith(f"{one}.") for one in commands - {module})
    ]


def is_command(path: Path) -> bool:
    return 'if __name__ == "__main__":' in path.read_text()


# --------------------------------------------------------------------------------------------------
# The rules on the programs


@pytest.mark.parametrize("program", PROGRAMS)
def test_folders_import_only_folders_below_them(program):
    found = circles(IMPORTS, program)
    assert not found, "\n".join(["folders import each other in a circle:", *found])


def test_modules_of_shared_import_only_modules_below_them():
    found = circles(IMPORTS, "shared")
    assert not found, "\n".join(found)


def test_nothing_imports_a_command():
    tops = [path for program in PROGRAMS for path in (ROOT / program).glob("*.py")]
    commands = {module_name(path) for path in tops if is_command(path)}
    assert {"preprocess.flows", "train.pretrain"} <= commands
    found = imports_of_commands(IMPORTS, commands)
    assert not found, "\n".join(["what two commands need lies in a folder:", *found])


@pytest.mark.parametrize("program", PROGRAMS)
def test_only_commands_and_folders_lie_on_top(program):
    others = [
        path.name
        for path in sorted((ROOT / program).iterdir())
        if path.is_file()
        and path.name != "__init__.py"
        and not (path.suffix == ".py" and is_command(path))
    ]
    assert not others, f"{program}/: {others} belong in a folder, or are commands without a main"


@pytest.mark.parametrize("module", IMPORTS)
def test_programs_meet_only_in_shared(module):
    program = module.split(".")[0]
    forbidden = {"preprocess", "train", "tests", "benchmarks"} - {program}
    assert not {name.split(".")[0] for name in IMPORTS[module]} & forbidden


@pytest.mark.parametrize("module", [name for name in IMPORTS if name.startswith("shared.")])
def test_shared_needs_numpy_and_h5py_alone(module):
    allowed = set(sys.stdlib_module_names) | {"numpy", "h5py", "shared"}
    assert {name.split(".")[0] for name in IMPORTS[module]} <= allowed


def test_compute_modules_import_without_ray_and_optflow():
    """Flow, motion and the model are usable and measurable where Ray is not installed."""
    modules = [
        "preprocess.flow.tvl1",
        "preprocess.flow.motion_maps",
        "preprocess.motion_boxes.boxes",
        "preprocess.flow_run.pool",
        "train.network.autoencoder",
        "train.samples.datasets",
    ]
    code = f"import sys; sys.modules['ray'] = None\nimport {', '.join(modules)}\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=600)


# --------------------------------------------------------------------------------------------------
# What the rules catch


def test_a_circle_is_named_with_its_imports():
    imports = {
        "train.pretrain": {"train.network.head", "click"},
        "train.network.head": {"train.clips", "train.clips.table", "numpy"},
        "train.clips.table": {"train.options.recipe"},
        "train.options.recipe": {"train.network", "train.network.head", "train.options.mask"},
        "train.options.mask": set(),
        "train.tables.values": {"train.options.mask"},
    }
    assert circles(imports, "train") == [
        "train/clips -> train/options -> train/network -> train/clips "
        "(train.clips.table imports train.options.recipe; "
        "train.options.recipe imports train.network; train.network.head imports train.clips)"
    ]
    imports["train.options.recipe"] = {"train.options.mask"}
    assert circles(imports, "train") == []


def test_two_circles_are_both_named():
    imports = {
        "train.a.one": {"train.b.one"},
        "train.b.one": {"train.a.one", "train.c.one"},
        "train.c.one": {"train.b.one"},
        "preprocess.c.one": {"train.a.one"},
    }
    found = [circle.partition(" (")[0] for circle in circles(imports, "train")]
    assert found == ["train/a -> train/b -> train/a", "train/c -> train/b -> train/c"]
    assert circles(imports, "preprocess") == []


def test_lazy_and_type_checking_imports_count(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from train.clips import table\n"
        "def late():\n    import train.network.head\n"
    )
    assert {"train.clips.table", "train.network.head"} <= imported_names(path)


def test_an_import_of_a_command_is_named():
    imports = {
        "preprocess.flows": {"preprocess.flow.raft"},
        "preprocess.retry": {"preprocess", "preprocess.flows", "preprocess.flows.main"},
        "preprocess.flow.raft": set(),
    }
    commands = {"preprocess.flows", "preprocess.retry"}
    assert imports_of_commands(imports, commands) == [
        "preprocess.retry imports preprocess.flows",
        "preprocess.retry imports preprocess.flows.main",
    ]
