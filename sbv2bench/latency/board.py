"""The latency board: built from committed latency results alone, one table a protocol on a device; never across devices."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbv2bench.errors import IntegrityError
from sbv2bench.results import store
from sbv2bench.results.conditions import Identity
from sbv2bench.results.records import BatchLatency, LatencyResult, MetricValue

NAME = "latency"
STAGES = ("text", "denoise", "decode")
HEADINGS = (
    "model", "decoder", "batch", "ms ↓", "median", "p5 to p95", *(f"{stage} ms" for stage in STAGES), "gap ms", "images/s ↑",
    "NFE", "UNet calls", "GFLOP", "% of ceiling ↑", "weights MB", "call MB",
)  # fmt: skip
_TAIL = ("load s", "first s", "compile s", "repeats", "commit", "date", "licence", "file")


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
    return f"{name}, {result.dtype}{threads}, {'compiled' if result.compiled else 'eager'}"


def admit(path: Path) -> LatencyResult:
    """A latency result whose numbers are as they were written.

    Raises as `store.load_latency`, and IntegrityError where the protocol is not its fingerprint's, or a number is not that of its
    repeats.
    """
    result = store.load_latency(path)
    again = f"sbv2bench latency --model {result.model.id} --protocol {result.protocol.id}"
    if result.protocol.fingerprint() != result.protocol_fingerprint:
        raise IntegrityError(f"{path}: protocol_fingerprint is not that of protocol, so the file was edited", again)
    for batch in result.batches:
        for name, timing in {"total": batch.total, **batch.stages}.items():
            if not math.isclose(timing.value, sum(timing.repeats) / max(1, len(timing.repeats)), rel_tol=1e-9):
                raise IntegrityError(f"{path}: batch {batch.batch_size}: {name}.value is not the mean of its repeats", again)
        if not math.isclose(batch.images_per_second * batch.total.value, 1000 * batch.batch_size, rel_tol=1e-9):
            raise IntegrityError(f"{path}: batch {batch.batch_size}: images_per_second is not that of its milliseconds", again)
    return result


def rows(folder: Path) -> list[Row]:
    """Of each model, decoder, batch size, device and protocol the newest row in `<folder>/results`, fastest models first."""
    newest: dict[tuple[Any, ...], Row] = {}
    for path in store.find_latency(folder / "results"):
        result = admit(path)
        for batch in result.batches:
            row = Row(path.relative_to(folder).as_posix(), result, batch)
            key = (row.device, result.protocol_fingerprint, result.model.fingerprint(), batch.batch_size)
            newest[key] = max(newest.get(key, row), row, key=lambda row: (_date(row.result), row.path))
    return sorted(newest.values(), key=lambda row: (row.device, row.batch.batch_size, row.batch.total.value, row.path))


def paper_latency(folder: Path) -> dict[Identity, dict[str, MetricValue]]:
    """For each model and dtype, as a metric of another board's row: its newest latency by the paper's protocol.

    Under the dtype "", of rows that do not say theirs, is the newest of any.
    """
    found: dict[Identity, dict[str, MetricValue]] = {}
    for row in sorted(rows(folder), key=lambda row: (_date(row.result), row.path)):
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
    lines = [_csv_cells(row) for row in found]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _csv_cells(row: Row) -> dict[str, Any]:
    result, batch, made = row.result, row.batch, row.result.provenance
    cells: dict[str, Any] = {
        "protocol": f"{result.protocol.id}@v{result.protocol.version}", "device": made.get("device_name") or result.device,
        "dtype": result.dtype, "threads": result.threads, "compiled": bool(result.compiled), "model": result.model.id,
        "decoder": result.decoder, "batch_size": batch.batch_size, "latency_ms": batch.total.value,
        "ci95_low_ms": (batch.total.ci95 or ("", ""))[0], "ci95_high_ms": (batch.total.ci95 or ("", ""))[1],
        "median_ms": batch.total.median, "p5_ms": batch.total.p5, "p95_ms": batch.total.p95,
    }  # fmt: skip
    for stage in STAGES:
        cells[f"{stage}_ms"] = batch.stages[stage].value if stage in batch.stages else ""
    return cells | {
        "gap_ms": batch.gap_ms, "images_per_second": batch.images_per_second, "nfe": result.model.nfe,
        "denoiser_calls": result.denoiser_calls, "flop": sum(batch.flop.values()), "ceiling_flop_per_s": result.ceiling.best,
        "ceiling_share": batch.ceiling_share, "weights_bytes": result.weights_bytes, "run_bytes": batch.run_bytes,
        "load_s": result.load_s, "first_run_s": result.first_run_s, "compile_s": batch.compile_s, "runs": batch.runs,
        "repeats_ms": " ".join(map(repr, batch.total.repeats)), "fingerprint": result.protocol_fingerprint[:8],
        "commit": _commit(result), "date": _date(result)[:10], "licence": result.model.licence, "file": row.path,
    }  # fmt: skip


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
        lines += ["", f"## {device}", ""]
        lines += [
            f"Ceiling {ceiling / 1e9:,.0f} GFLOP/s. Call MB: {'; '.join(dict.fromkeys(r.result.memory_method for r in own))}."
        ]
        lines += ["", *(f"| {' | '.join(cells)} |" for cells in ([*HEADINGS, *_TAIL], ["---"] * (len(HEADINGS) + len(_TAIL))))]
        for row in own:
            cells = [cell.replace("|", "\\|") for cell in (*cells_of(row.result, row.batch), *_tail(row))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cells_of(result: LatencyResult, batch: BatchLatency) -> list[str]:
    """A row as people read it, under `HEADINGS`."""
    total = batch.total
    reach = "" if total.ci95 is None else f" ± {short((total.ci95[1] - total.ci95[0]) / 2)}"
    return [
        result.model.id,
        result.decoder.removeprefix("Autoencoder"),
        str(batch.batch_size),
        f"{short(total.value)}{reach}",
        short(total.median),
        f"{short(total.p5)} to {short(total.p95)}",
        *(short(batch.stages[stage].value) if stage in batch.stages else "" for stage in STAGES),
        short(batch.gap_ms) if batch.stages else "",
        short(batch.images_per_second),
        str(result.model.nfe),
        str(result.denoiser_calls),
        short(sum(batch.flop.values()) / 1e9),
        f"{100 * batch.ceiling_share:.1f}",
        "" if result.weights_bytes is None else short(result.weights_bytes / 1e6),
        "" if batch.run_bytes is None else short(batch.run_bytes / 1e6),
    ]


def short(value: float) -> str:
    """Three significant digits, no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{min(6, max(0, 2 - math.floor(math.log10(abs(value)))))}f}"


def _tail(row: Row) -> list[str]:
    result = row.result
    compiled = "" if row.batch.compile_s is None else short(row.batch.compile_s)
    repeats = f"{len(row.batch.total.repeats)} ({row.batch.runs} runs)"
    made = (_commit(result), _date(result)[:10], result.model.licence, f"[json]({row.path})")
    return [short(result.load_s), short(result.first_run_s), compiled, repeats, *made]


def _commit(result: LatencyResult) -> str:
    made = result.provenance
    return str(made.get("git_commit") or "")[:8] + ("+" if made.get("git_dirty") else "")


def _date(result: LatencyResult) -> str:
    return str(result.provenance.get("date_utc") or "")
