"""The content of a page with everything that a page can show, and with text that would do harm if it were not escaped."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image

from sbv2bench.report.columns import Column as TextColumn
from sbv2bench.report.page_content import (
    Board,
    Column,
    Content,
    Curve,
    Gallery,
    Kind,
    Number,
    Row,
    Shown,
    Sweep,
    Tile,
)

HOSTILE = '<img src=x onerror="window.harm=1">"\'</script></title></style><script>window.harm=1</script>{{ 7 * 7 }} --> a | b'
COLUMNS = (
    Column("fid", "FID-mini", "lower"), Column("precision", "precision-mini", "higher"),
    Column("recall", "recall-mini", "higher"), Column("latency_ms", "latency", "lower", "ms"),
)  # fmt: skip
TEXTS: list[TextColumn[dict[str, str]]] = [
    TextColumn("metric", "metric", lambda row: row["metric"], left=True),
    TextColumn("of", "of", lambda row: row["of"]),
    TextColumn("verdict", "verdict", lambda row: row["verdict"], left=True),
]


def number(value: float, error: float = 0.01, **more: object) -> Number:
    """A number with a 95 % interval of twice its error."""
    interval = (value - 2 * error, value + 2 * error)
    return replace(Number(value, f"{value:.3f}", f"± {error:.3f}", interval, "by hand"), **more)  # type: ignore[arg-type]


def row(
    name: str,
    fid: float | None,
    place: float = 0.5,
    *,
    nfe: int = 1,
    kind: Kind = "measured",
    guidance: float | None = 1.0,
    licence: str = "none",
    parameters: int | None = None,
) -> Row:
    """A row with precision and recall at a place, and a latency that grows with its steps."""
    numbers = {"precision": number(place), "recall": number(1 - place), "latency_ms": number(10.0 * nfe + 1, 0.5)}
    if fid is not None:
        numbers["fid"] = number(fid)
    return Row(
        id="".join(filter(str.isalnum, name))[:12], name=f"mini/{name}", settings=f"{nfe} steps", short=name[:20],
        numbers=numbers, kind=kind, title=name, family="mini", nfe=nfe, guidance=guidance, passes=float(nfe), licence=licence,
        parameters=parameters,
        facts=(("licence", licence), ("commit", "0123abcd")), weights=(("unet/weights.safetensors", "ab" * 32),),
        command=f"sbv2bench eval --model {name}", date="2026-11-30", link=f"results/{name}.json",
    )  # fmt: skip


def picture(across: int = 1, down: int = 1) -> bytes:
    """A PNG of tiles of 8 x 8 pixels, each of a colour of its own."""
    image, file = Image.new("RGB", (8 * across, 8 * down)), io.BytesIO()
    for row in range(down):
        for column in range(across):
            image.paste((200 - 40 * row, 30 + 20 * column, 30), (8 * column, 8 * row, 8 * column + 8, 8 * row + 8))
    image.save(file, "PNG")
    return file.getvalue()


def gallery(text: str) -> Gallery:
    """Two models and real pictures, four captions of which the first is anybody's."""
    hps = {"student": (0.9, 0.1, 0.5, 0.7), "teacher": (0.8, 0.9, 0.6, 0.3)}
    models = (
        Shown("real", "mini/real", "real", {"hps": (0.95,) * 4}, "real"),
        *(Shown(name, f"mini/{name}", name, {"hps": scores}) for name, scores in hps.items()),
        Shown(text, f"mini/{text}", "", {"hps": (0.4, 0.4, 0.4, 0.4)}),
    )
    captions = tuple((number, text if number == 0 else f"caption number {number}") for number in range(4))
    return Gallery(text, picture(4, 4), 8, captions, models, (Column("hps", "HPS-mini", "higher"),), "board")


def content(text: str = HOSTILE) -> Content:
    """A page of one board of six rows, and of one of everything else. text: stands wherever somebody's text can stand."""
    rows = (
        row("real", 0.1, 0.9, nfe=0, kind="real", guidance=None),
        row("teacher", 1.5, 0.8, nfe=25, guidance=2.0, licence="MIT", parameters=900_000_000),
        row("student", 2.5, 0.7, parameters=3_000_000), row(text, 10.0, 0.6), row("printed", 4.0, 0.55, kind="published"),
        row("unknown", None, 0.5, nfe=4),
    )  # fmt: skip
    verdicts = {"fid": (" =+ ", "= + ", "--  ", "    ")}  # the teacher and the student cannot be told apart
    rows = tuple(replace(one, facts=(*one.facts, (text, text)), weights=((text, text),)) for one in rows)
    curve = Curve("FID-mini", "lower", ((0.0, 3.0, (2.5, 3.5)), (0.5, 2.0, None), (1.0, 4.0, (3.5, 4.5))))
    return Content(
        title=f"A page {text}", about=(text,), boards=(
            Board(
                "board", f"board {text}", (text,), COLUMNS, rows, (1, 2, 3, 5), verdicts, text,
                (Tile("Best of all", "teacher", "FID-mini 1.500 ± 0.010", ("student", text)),),
                order="fid",
            ),
            Board("other", "other", (), COLUMNS, (replace(rows[4], id="x1"), replace(rows[4], id="x2", title="second"))),
        ),
        gallery=gallery(text),
        comparisons=(TEXTS, [{"metric": "FID-mini", "of": text, "verdict": "worse"}]),
        sweeps=(Sweep(text, text, text, (curve,)),),
        claims=(TEXTS, [{"metric": text, "of": text, "verdict": "agrees"}, {"metric": "b", "of": "", "verdict": "not run"}]),
        claims_about=text, meanings=((text, text),),
    )  # fmt: skip
