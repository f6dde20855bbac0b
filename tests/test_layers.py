"""Rooms import downwards only, as read from the imports themselves, lazy ones included (but for cli, whose point they are)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The rooms, lowest first; those of one line may import each other, without a circle. A room is a folder or a module beside them;
# a longer name is a part of a room that stands lower than the rest of it.
ROOMS = (
    {"", "errors", "paths", "atomic", "diffusion", "provenance"},
    {"spec_base", "asset_spec", "specs", "catalog", "registry", "unlisted", "shell", "results.records",
     # what the registry asks of a folder or a hub id that no catalog has
     "data.assets", "data.asset_store", "data.transfer", "data.digests", "data.images", "data.hub", "data.hub_errors",
     "data.selection", "data.remarks", "data.single_file"},
    {"weights", "data", "mini"},
    {"samplers", "features", "metrics"},
    {"results", "report", "machine"},
    {"latency"},
    {"evaluation"},
    {"compare", "boards"},
    {"reproduce"},
    {"cli", "__main__"},
)  # fmt: skip
LAYERS = {name: number for number, names in enumerate(ROOMS) for name in names}
SIBLINGS = ("samplers", "features", "metrics")
HEAVY = {"torch", "diffusers", "transformers", "open_clip", "pandas", "peft", "torchvision", "altair", "jinja2", "vl_convert"}
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


OWN = sorted(name for name in MODULES if name.startswith("sbv2bench"))


@pytest.mark.parametrize("name", OWN)
def test_imports_go_down(name: str) -> None:
    for imported in imports(name, lazy=room(name) != "cli"):
        if imported.partition(".")[0] != "sbv2bench":
            continue
        assert layer(imported) <= layer(name), f"{name} (layer {layer(name)}) imports {imported} (layer {layer(imported)})"
        if room(name) in SIBLINGS and room(imported) in SIBLINGS and room(name) != room(imported):
            assert inside(imported).endswith(".base"), f"{name} imports {imported}, siblings import only each other's base"
            assert room(name) != "metrics", f"{name} imports {imported}: metrics take arrays, and import no sibling"


@pytest.mark.parametrize("name", OWN)
def test_sbv2bench_never_imports_the_trainer(name: str) -> None:
    assert not any(imported.partition(".")[0] == "reference_trainer" for imported in imports(name))


@pytest.mark.parametrize("name", [name for name in OWN if layer(name) <= NO_TORCH and room(name) != "diffusion"])
def test_the_lower_layers_import_nothing_heavy(name: str) -> None:
    assert not {imported.partition(".")[0] for imported in imports(name)} & HEAVY


@pytest.mark.parametrize("name", ["sbv2bench.cli", "sbv2bench.__main__", "sbv2bench.cli.doctor", "sbv2bench.evaluation.options"])
def test_the_command_line_imports_nothing_heavy_before_it_must(name: str) -> None:
    assert not {imported.partition(".")[0] for imported in imports(name, lazy=False)} & HEAVY


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("reference_trainer")))
def test_the_trainer_uses_the_rooms_and_not_the_shell(name: str) -> None:
    used = {imported for imported in imports(name) if imported.startswith("sbv2bench.")}
    assert not {room(imported) for imported in used} & {"cli", "__main__", "doctor"}


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
