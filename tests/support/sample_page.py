"""The content of a page with everything that a page can show, and with text that would do harm if it were not escaped."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image

from sbv2bench.report.page_content import Board, Claim, Column, Comparison, Content, Curve, Kind, Number, Picture, Row, Sweep

HOSTILE = '<img src=x onerror="window.harm=1">"\'</script></title></style><script>window.harm=1</script>{{ 7 * 7 }} --> a | b'
COLUMNS = (
    Column("fid", "FID-mini", "lower"), Column("precision", "precision-mini", "higher"),
    Column("recall", "recall-mini", "higher"), Column("latency_ms", "latency", "lower", "ms"),
)  # fmt: skip


def number(value: float, error: float = 0.01, **more: object) -> Number:
    """A number with a 95 % interval of twice its error."""
    interval = (value - 2 * error, value + 2 * error)
    return replace(Number(value, f"{value:.3f}", f"± {error:.3f}", interval, "by hand"), **more)  # type: ignore[arg-type]


def row(
    name: str, fid: float | None, place: float = 0.5, *, nfe: int = 1, kind: Kind = "measured", guidance: float | None = 1.0
) -> Row:
    """A row with precision and recall at a place, and a latency that grows with its steps."""
    numbers = {"precision": number(place), "recall": number(1 - place), "latency_ms": number(10.0 * nfe + 1, 0.5)}
    if fid is not None:
        numbers["fid"] = number(fid)
    return Row(
        name, f"{nfe} steps", name[:20], numbers, kind, nfe, guidance, (("licence", "none"), ("commit", "0123abcd")),
        (("unet/weights.safetensors", "ab" * 32),), f"results/{name}.json",
    )  # fmt: skip


def picture() -> bytes:
    """A PNG of 8 x 8 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


def content(text: str = HOSTILE) -> Content:
    """A page of one board of six rows, and of one of everything else. text: stands wherever somebody's text can stand."""
    rows = (
        row("real", 0.1, 0.9, nfe=0, kind="real", guidance=None), row("teacher", 1.5, 0.8, nfe=25, guidance=2.0),
        row("student", 2.5, 0.7), row(text, 10.0, 0.6), row("printed", 4.0, 0.55, kind="published"),
        row("unknown", None, 0.5, nfe=4),
    )  # fmt: skip
    rows = tuple(replace(one, facts=(*one.facts, (text, text)), weights=((text, text),)) for one in rows)
    curve = Curve("FID-mini", "lower", ((0.0, 3.0, (2.5, 3.5)), (0.5, 2.0, None), (1.0, 4.0, (3.5, 4.5))))
    return Content(
        title=f"A page {text}", about=(text,), boards=(Board(f"board {text}", (text,), COLUMNS, rows),),
        comparisons=(Comparison("FID-mini", text, "student", "+1", "[0.5, 1.5]", "0.0100", "worse", text),),
        sweeps=(Sweep(text, text, text, (curve,)),),
        pictures=(Picture(text, text, text, picture(), 8, 8, (("board", "FID-mini"), (text, text))),),
        claims=(Claim(text, "FID-mini", text, text, text, "+1", text, "agrees"), Claim("b", "c", "", "", "", "", "", "not run")),
        claims_about=text, meanings=((text, text),),
    )  # fmt: skip
