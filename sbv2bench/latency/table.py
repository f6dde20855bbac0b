"""Latency in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sbv2bench.latency.board import FIGURES, Row, machine, short
from sbv2bench.latency.plan import LatencyPlan
from sbv2bench.machine.waiting import is_busy
from sbv2bench.report.layout import print_table
from sbv2bench.report.terminal import say
from sbv2bench.results.records import LatencyProtocol, LatencyResult


def protocol_line(protocol: LatencyProtocol) -> str:
    """The first line of every measurement: how the clock is read."""
    limit = "" if protocol.seconds is None else f", a repeat of at most {protocol.seconds:g} s of runs"
    runs = f"{'up to ' if limit else ''}{protocol.runs} runs"
    said = f"{protocol.warm_up} warm-ups, {runs}, {protocol.repeats} repeats{limit}, {protocol.statistic} of each"
    return f"latency protocol {protocol.id}@v{protocol.version}: {said}, models interleaved"


def chosen_line(plan: LatencyPlan) -> str:
    """What is timed on, as it was chosen."""
    import torch

    options, threads = plan.options, f", {torch.get_num_threads()} threads" if plan.device == "cpu" else ""
    batches = ", ".join(map(str, options.batch_sizes))
    compiled = ", compiled" if options.compiled else ""
    return f"timed on {plan.device} in {plan.dtype}{threads}, batch {batches}{compiled}"


def print_latency(console: Console, stored: Sequence[tuple[LatencyResult, Path]]) -> None:
    """One table for all rows of a run, what it was measured on, cold starts, and where the files are."""
    results = [result for result, _ in stored]
    first = results[0]
    rows = [Row(str(path), result, batch) for result, path in stored for batch in result.batches]
    print_table(console, FIGURES, rows, machine(first))
    ceiling = first.ceiling
    say(console, f"ceiling in this run: matrix product {_giga(ceiling.matmul)}, convolution {_giga(ceiling.conv)} GFLOP/s")
    for result in results:
        compiled = [
            f"batch {batch.batch_size} {short(batch.compile_s)} s" for batch in result.batches if batch.compile_s is not None
        ]
        more = f", first compiled call: {', '.join(compiled)}" if compiled else ""
        decoder = f" ({result.decoder})" if result.decoder else ""
        cold = f"load {short(result.load_s)} s, first run {short(result.first_run_s)} s"
        say(console, f"cold start of {result.model.id}{decoder}: {cold}{more}")
    say(console, f"call MB: {first.memory_method}; ± is half of Student's 95 % interval over repeats")
    for _, path in stored:
        say(console, f"result: {path}")
    if is_busy(share := first.provenance.get("waited")):
        say(console, f"the machine was busy: {share:.0%} of the time a core was waited for. These times are on no leaderboard.")
        return
    say(console, f"to put them on the leaderboard: sbv2bench leaderboard --add {' '.join(str(path) for _, path in stored)}")


def _giga(rate: float) -> str:
    return short(rate / 1e9)
