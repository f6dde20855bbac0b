"""The layer rule of design.md 2, read from the imports themselves, lazy ones included (but for cli, whose point they are)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A module belongs to the longest name here that begins its own, without the package's name.
LAYERS = {
    "": 0, "errors": 0, "paths": 0, "atomic": 0, "diffusion": 0, "provenance": 0,
    "spec_base": 1, "asset_spec": 1, "metric_spec": 1, "specs": 1, "catalog": 1, "registry": 1, "results": 1,
    "results.records": 1,
    "data.assets": 1, "data.asset_store": 1, "data.transfer": 1, "data.digests": 1, "data.images": 1, "data.hub": 1,
    "data.hub_errors": 1, "data.selection": 1, "data.remarks": 1, "data.single_file": 1, "unlisted": 1,
    "weights": 2, "data": 2, "mini": 2,
    "samplers": 3, "features": 3, "metrics": 3,
    "runs": 4, "results.store": 4, "results.leaderboard": 4, "results.claims": 4, "results.latency_board": 4,
    "results.published": 4, "results.boards": 4, "results.board_tables": 4, "results.sweeps": 4,
    "results.prompt_values": 4, "results.differences": 4, "report": 4, "doctor": 4,
    "shell": 1, "arguments": 5, "cli": 5, "cache_cli": 5, "compare_cli": 5, "latency_cli": 5,
    "leaderboard_cli": 5, "reproduce_cli": 5,
    "__main__": 5,
}  # fmt: skip
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
    assert known or not inside(name), f"{name} is in no room of design.md 2"
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


@pytest.mark.parametrize(
    "name", ["sbv2bench.cli", "sbv2bench.__main__", "sbv2bench.machine.doctor", "sbv2bench.evaluation.options"]
)
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
