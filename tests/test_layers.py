"""Rooms import downwards only, as read from the imports themselves, lazy ones included (but for cli, whose point they are)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The rooms, lowest first; those of one line may import each other, without a circle. A room is a folder or a module beside them;
# a longer name is a part of a room that stands lower than the rest of it.
ROOMS = (
    {"", "errors", "paths", "atomic", "diffusion", "provenance", "printable"},
    {"strict_yaml", "spec_base", "asset_spec", "metric_spec", "model_spec",
     "specs", "catalog", "registry", "unlisted", "shell", "results.records",
     # what the registry asks of a folder or a hub id that no catalog has
     "data.assets", "data.asset_store", "data.transfer", "data.digests", "data.images", "data.hub", "data.hub_errors",
     "data.selection", "data.remarks", "data.single_file", "data.unfinished"},
    {"weights", "data", "mini"},
    {"samplers", "features", "metrics"},
    {"results", "report", "machine"},
    {"latency"},
    {"evaluation"},
    {"compare", "verify"},
    {"boards"},
    {"reproduce", "sweep", "watch"},
    {"cli", "__main__"},
)  # fmt: skip
LAYERS = {name: number for number, names in enumerate(ROOMS) for name in names}
SIBLINGS = ("samplers", "features", "metrics")
HEAVY = {"torch", "diffusers", "transformers", "open_clip", "pandas", "peft", "torchvision", "jinja2"}
NO_TORCH = 1  # layers up to this one (but diffusion, which is maths on tensors) import nothing heavy, not even lazily


def module_name(path: Path) -> str:
    """sbv2bench/data/assets.py -> sbv2bench.data.assets; a package's __init__ has the package's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in ("sbv2bench", "reference_trainer") for path in (ROOT / package).rglob("*.py")}


def imports(name: str, lazy: bool = True, typing: bool = True) -> Iterator[str]:
    """Modules that a module imports; without lazy only those at its import; without typing none under TYPE_CHECKING."""
    stack: list[ast.AST] = [ast.parse(MODULES[name].read_text("utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            stack += node.orelse
            continue
        stack += ast.iter_child_nodes(node)


def inside(name: str) -> str:
    return name.partition(".")[2]


def layer(name: str) -> int:
    parts = inside(name).split(".")
    known = next(key for count in range(len(parts), -1, -1) if (key := ".".join(parts[:count])) in LAYERS)
    assert known or not inside(name), f"{name} is in no room of ROOMS"
    return LAYERS[known]


def room(name: str) -> str:
    return inside(name).partition(".")[0]


LIGHT = {"machine.doctor", "machine.choices", "evaluation.options"}
OWN = sorted(name for name in MODULES if name.startswith("sbv2bench"))


def rooms() -> set[str]:
    return {room(name) for name in OWN}


def _own_imports(name: str) -> list[str]:
    return [other for other in imports(name, lazy=room(name) != "cli") if other.partition(".")[0] == "sbv2bench"]


def test_imports_go_down() -> None:
    up = [(name, other) for name in OWN for other in _own_imports(name) if layer(other) > layer(name)]
    assert not up


def test_samplers_features_and_metrics_import_only_each_others_base() -> None:
    for name in (name for name in OWN if room(name) in SIBLINGS):
        for other in _own_imports(name):
            if room(other) in SIBLINGS and room(other) != room(name):
                assert inside(other).endswith(".base"), f"{name} imports {other}"
                assert room(name) != "metrics", f"{name} imports {other}: metrics take arrays"


def test_rooms_of_one_layer_make_no_circle() -> None:
    graph = {own: {room(other) for name in OWN if room(name) == own for other in _own_imports(name)} - {own} for own in rooms()}
    for names in ROOMS[3:]:
        for name in names & graph.keys():
            assert not any(name in graph.get(other, set()) for other in graph[name] & names), name


def test_sbv2bench_never_imports_the_trainer_nor_the_trainer_the_shell() -> None:
    for name in MODULES:
        used = set(imports(name))
        if name.startswith("sbv2bench"):
            assert not any(other.partition(".")[0] == "reference_trainer" for other in used), name
        else:
            assert not {room(other) for other in used if other.startswith("sbv2bench.")} & {"cli", "__main__"}, name


def test_the_lower_layers_import_nothing_heavy() -> None:
    for name in (name for name in OWN if layer(name) <= NO_TORCH and room(name) != "diffusion"):
        assert not {other.partition(".")[0] for other in imports(name)} & HEAVY, name


def test_the_command_line_imports_nothing_heavy_before_it_must() -> None:
    for name in (name for name in OWN if room(name) in {"cli", "__main__"} or inside(name) in LIGHT):
        assert not {other.partition(".")[0] for other in imports(name, lazy=False)} & HEAVY, name


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: {other for other in imports(name, lazy=False, typing=False) if other in MODULES} - {name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
