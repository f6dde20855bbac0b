"""`sbv2bench latency`: what was typed, and what is printed; the room `latency` does the work."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbv2bench.cli.arguments import Catalog, Json, Models, Offload
from sbv2bench.shell import print_json

if TYPE_CHECKING:
    from sbv2bench.registry import Registry


def latency(  # noqa: PLR0917  # the command line's options
    model: Models,
    protocol: Annotated[str, typer.Option(help="paper (arXiv 2408.14176, section 7.5) or full.")] = "full",
    batch_size: Annotated[list[int] | None, typer.Option(help="Images per call; may be repeated. Default: 1.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Run all networks through torch.compile.")] = False,
    graphs: Annotated[bool, typer.Option("--cuda-graphs", help="With --compile: replay them as CUDA graphs.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    offload: Offload = "none",
    results: Annotated[Path, typer.Option(help="Folder for result files.")] = Path("results"),
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """Time models from caption to pixels, stage by stage, with memory, FLOPs and the share of the device's peak."""
    from sbv2bench.report import terminal
    from sbv2bench.report.progress import loading, progress_bars

    console, out = terminal.stderr_console(), terminal.stdout_console(taken=as_json)
    with loading(console, "PyTorch and the networks' libraries"):
        from sbv2bench.latency import table as latency_table
        from sbv2bench.latency.plan import LatencyOptions, plan_latency
        from sbv2bench.registry import Registry
    options = LatencyOptions.validated(
        protocol=protocol, batch_sizes=batch_size or (), compiled=compiled, graphs=graphs, device=device,
        dtype=dtype, results=results, offload=offload,
    )  # fmt: skip
    registry = Registry.load(catalog)
    terminal.say(console, latency_table.protocol_line(options.protocol))
    with redirect_stdout(sys.stderr):  # nothing that a library prints may get into the JSON
        plan = plan_latency(model, options, registry)
        for note in plan.notes:
            terminal.say(console, f"note: {note}")
        with loading(console, "the clock's libraries"):
            from sbv2bench.latency.measure import measure_and_store
        terminal.say(console, latency_table.chosen_line(plan))
        with progress_bars(console) as progress:
            stored = measure_and_store(plan, registry, progress)
    latency_table.print_latency(out, stored)
    if as_json:
        documents = [result.model_dump(mode="json") for result, _ in stored]
        print_json(documents[0] if len(documents) == 1 else {"results": documents})


def latency_of_group(registry: Registry, suite: str, models: Sequence[str]) -> str | None:
    """The latency command that belongs to a group's evaluation; None where the suite is none, or its group has none."""
    group = registry.groups.get(suite)
    if group is None or group.latency is None:
        return None
    named = " ".join(f"--model {shlex.quote(name)}" for name in models)
    return f"sbv2bench latency --protocol {group.latency} {named}"
