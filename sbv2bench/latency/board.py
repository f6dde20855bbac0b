"""The latency board: built from committed latency results alone, one table a protocol on a device; never across devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.machine.waiting import BUSY, is_busy
from sbv2bench.report.columns import Column, csv_text, markdown_lines
from sbv2bench.results import store
from sbv2bench.results.conditions import Identity, commit_of, date_of
from sbv2bench.results.records import BatchLatency, LatencyResult, MetricValue

NAME = "latency"
STAGES = ("text", "denoise", "decode")


@dataclass(frozen=True)
class Row:
    """A model at a batch size. path: of its result file, below the leaderboards' folder."""

    path: str
    result: LatencyResult
    batch: BatchLatency

    @property
    def device(self) -> str:
        """What times may be compared within: protocol, device, dtype, threads, eager or compiled."""
        return f"{self.result.protocol.id}@v{self.result.protocol.version} on {machine(self.result)}"


def machine(result: LatencyResult) -> str:
    """The device and how it was used, in words."""
    made = result.provenance
    threads = f", {result.threads} threads" if result.device == "cpu" else ""
    name = str(made.get("device_name") or result.device)
    offloaded = "" if result.offload == "none" else f", offload {result.offload}"
    return f"{name}, {result.dtype}{threads}, {way(result)}{offloaded}"


def way(result: LatencyResult) -> str:
    """How a result's networks ran, in words: eager, or which parts were compiled, where not the denoiser alone."""
    if result.compiled in ((), ("denoiser",)):
        return "compiled" if result.compiled else "eager"
    return f"compiled ({', '.join(result.compiled)}{', as CUDA graphs' if result.cuda_graphs else ''})"


def admit(path: Path) -> LatencyResult:
    """A latency result whose numbers are as they were written.

    Raises as `store.load_latency`, IntegrityError where the protocol is not its fingerprint's, or a number is not that of its
    repeats, and InputError where the machine was busy with other things meanwhile.
    """
    result = store.load_latency(path)
    again = f"sbv2bench latency --model {result.model.id} --protocol {result.protocol.id}"
    if result.protocol.fingerprint() != result.protocol_fingerprint:
        raise IntegrityError(f"{path}: protocol_fingerprint is not that of protocol, so the file was edited", again)
    if is_busy(share := result.provenance.get("waited")):
        raise InputError(
            f"{path}: the machine was busy: {share:.0%} of the time a core was waited for, expected at most {BUSY:.0%}",
            f"on a quiet machine: {again}",
        )
    for batch in result.batches:
        for name, timing in {"total": batch.total, **batch.stages}.items():
            if not math.isclose(timing.value, sum(timing.repeats) / max(1, len(timing.repeats)), rel_tol=1e-9):
                raise IntegrityError(f"{path}: batch {batch.batch_size}: {name}.value is not the mean of its repeats", again)
        if not math.isclose(batch.images_per_second * batch.total.value, 1000 * batch.batch_size, rel_tol=1e-9):
            raise IntegrityError(f"{path}: batch {batch.batch_size}: images_per_second is not that of its milliseconds", again)
    return result


def rows(folder: Path) -> list[Row]:
    """Of each model, decoder, batch size, device and protocol the newest row in `<folder>/results`, fastest models first."""
    newest: dict[tuple[str, str, str, int], Row] = {}
    for path in store.find_latency(folder / "results"):
        result = admit(path)
        for batch in result.batches:
            row = Row(path.relative_to(folder).as_posix(), result, batch)
            key = (row.device, result.protocol_fingerprint, result.model.fingerprint(), batch.batch_size)
            newest[key] = max(newest.get(key, row), row, key=lambda row: (date_of(row.result), row.path))
    return sorted(newest.values(), key=lambda row: (row.device, row.batch.batch_size, row.batch.total.value, row.path))


def paper_latency(folder: Path) -> dict[Identity, dict[str, MetricValue]]:
    """For each model and dtype, as a metric of another board's row: its newest latency by the paper's protocol.

    Under the dtype "", of rows that do not say theirs, is the newest of any.
    """
    found: dict[Identity, dict[str, MetricValue]] = {}
    for row in sorted(rows(folder), key=lambda row: (date_of(row.result), row.path)):
        if row.result.protocol.id == "paper":
            total = row.batch.total
            metric = MetricValue(
                value=total.value, ci95=total.ci95, uncertainty=f"t interval over repeats, {machine(row.result)}",
                label="latency (paper)", direction="lower", unit="ms", n_generated=row.batch.runs, repeats=total.repeats,
                fingerprint=row.result.protocol_fingerprint, details={"file": row.path, "machine": machine(row.result)},
            )  # fmt: skip
            for dtype in (row.result.dtype, ""):
                found[row.result.model.fingerprint(), dtype] = {"latency_paper_ms": metric}
    return found


def rendered(folder: Path, mark: str) -> dict[str, str]:
    """latency.csv and latency.md; nothing where there are no latency results. mark: the first line of what is built."""
    found = rows(folder)
    return {f"{NAME}.csv": to_csv(found), f"{NAME}.md": to_markdown(found, mark)} if found else {}


def to_csv(found: Sequence[Row]) -> str:
    """Every number in full, a row for each model and batch size. Times in ms, cold ones in s, memory in bytes."""
    return csv_text(((*SETTINGS, *FIGURES, *ORIGIN), found))


def to_markdown(found: Sequence[Row], mark: str) -> str:
    """The page: what the columns are, then a table for each protocol on each device."""
    lines = [mark, "# Latency", ""]
    lines += [
        "From captions to uint8 pixels on the CPU. ms: the mean over repeats of each one's mean (paper) or median (full),"
        " with Student's 95 % interval over the repeats; median, p5 and p95 are of all runs together; gap: the whole less the sum"
        " of its stages; % of ceiling: of the fastest bare matrix product or convolution in the same run.",
    ]
    for device in dict.fromkeys(row.device for row in found):
        own = [row for row in found if row.device == device]
        ceiling = max(row.result.ceiling.best for row in own)
        methods = "; ".join(dict.fromkeys(row.result.memory_method for row in own))
        lines += ["", f"## {device}", "", f"Ceiling {ceiling / 1e9:,.0f} GFLOP/s. Call MB: {methods}."]
        lines += ["", *markdown_lines((*FIGURES, *ORIGIN), own)]
    return "\n".join(lines) + "\n"


def short(value: float | None) -> str:
    """Three significant digits, no exponent; "" for None."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{min(6, max(0, 2 - math.floor(math.log10(abs(value)))))}f}"


def _mega(size: int | None) -> str:
    return "" if size is None else short(size / 1e6)


def _weights(row: Row) -> str:
    return _mega(row.result.weights_bytes)


def _gap(batch: BatchLatency) -> str:
    return short(batch.gap_ms) if batch.stages else ""


def _flop(row: Row) -> float:
    return sum(row.batch.flop.values())


def _percent(row: Row) -> str:
    return f"{100 * row.batch.ceiling_share:.1f}"


def _with_reach(row: Row) -> str:
    total = row.batch.total
    return short(total.value) + ("" if total.ci95 is None else f" ± {short((total.ci95[1] - total.ci95[0]) / 2)}")


def _stage(name: str) -> Column[Row]:
    def milliseconds(row: Row) -> float | None:
        return row.batch.stages[name].value if name in row.batch.stages else None

    return Column(f"{name}_ms", f"{name} ms", milliseconds, lambda row: short(milliseconds(row)))


SETTINGS: tuple[Column[Row], ...] = (  # in files only: on a page they head the table
    Column("protocol", "", lambda row: f"{row.result.protocol.id}@v{row.result.protocol.version}"),
    Column("device", "", lambda row: row.result.provenance.get("device_name") or row.result.device),
    Column("dtype", "", lambda row: row.result.dtype),
    Column("threads", "", lambda row: row.result.threads),
    Column("compiled", "", lambda row: bool(row.result.compiled)),
)
FIGURES: tuple[Column[Row], ...] = (
    Column("model", "model", lambda row: row.result.model.id, left=True, names=True),
    Column(
        "decoder",
        "decoder",
        lambda row: row.result.decoder,
        lambda row: row.result.decoder.removeprefix("Autoencoder"),
        left=True,
        room=3,
    ),
    Column("batch_size", "batch", lambda row: row.batch.batch_size, names=True),
    Column("latency_ms", "ms ↓", lambda row: row.batch.total.value, _with_reach),
    Column("ci95_low_ms", "", lambda row: (row.batch.total.ci95 or (None, None))[0]),
    Column("ci95_high_ms", "", lambda row: (row.batch.total.ci95 or (None, None))[1]),
    Column("median_ms", "median", lambda row: row.batch.total.median, lambda row: short(row.batch.total.median), room=4),
    Column("p5_ms", "", lambda row: row.batch.total.p5),
    Column("p95_ms", "", lambda row: row.batch.total.p95),
    Column("", "p5 to p95", lambda row: f"{short(row.batch.total.p5)} to {short(row.batch.total.p95)}", room=5),
    *map(_stage, STAGES),
    Column(
        "gap_ms", "gap ms", lambda row: row.batch.gap_ms, lambda row: short(row.batch.gap_ms) if row.batch.stages else "", room=6
    ),
    Column(
        "images_per_second", "images/s ↑", lambda row: row.batch.images_per_second, lambda row: short(row.batch.images_per_second)
    ),
    Column("nfe", "NFE", lambda row: row.result.model.nfe, room=2),
    Column("denoiser_calls", "passes", lambda row: row.result.denoiser_calls, room=7),
    Column(
        "flop", "GFLOP", lambda row: sum(row.batch.flop.values()), lambda row: short(sum(row.batch.flop.values()) / 1e9), room=7
    ),
    Column("ceiling_flop_per_s", "", lambda row: row.result.ceiling.best),
    Column("ceiling_share", "% of ceiling ↑", lambda row: row.batch.ceiling_share, _percent, room=7),
    Column("weights_bytes", "weights MB", lambda row: row.result.weights_bytes, _weights, room=7),
    Column("run_bytes", "call MB", lambda row: row.batch.run_bytes, lambda row: _mega(row.batch.run_bytes), room=7),
)
ORIGIN: tuple[Column[Row], ...] = (
    Column("load_s", "load s", lambda row: row.result.load_s, lambda row: short(row.result.load_s)),
    Column("first_run_s", "first s", lambda row: row.result.first_run_s, lambda row: short(row.result.first_run_s)),
    Column("compile_s", "compile s", lambda row: row.batch.compile_s, lambda row: short(row.batch.compile_s)),
    Column("", "repeats", lambda row: f"{len(row.batch.total.repeats)} ({row.batch.runs} runs)"),
    Column("runs", "", lambda row: row.batch.runs),
    Column("repeats_ms", "", lambda row: " ".join(map(repr, row.batch.total.repeats))),
    Column("fingerprint", "", lambda row: row.result.protocol_fingerprint[:8]),
    Column("commit", "commit", lambda row: commit_of(row.result)),
    Column("date", "date", lambda row: date_of(row.result)[:10]),
    Column("licence", "licence", lambda row: row.result.model.licence),
    Column("file", "file", lambda row: row.path, lambda row: f"[json]({row.path})"),
)
