"""Arguments that several commands take, declared once. Nothing heavy at import."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbv2bench.errors import SBV2BenchError

if TYPE_CHECKING:
    from sbv2bench.registry import Registry

DEFAULT_SUITE = "mini"
SUITE_VARIABLE = "SBV2BENCH_SUITE"


def completing(kind: str) -> Callable[[str], list[str]]:
    """Ids of a kind that begin with what is typed so far, for the shell's completion."""

    def complete(incomplete: str) -> list[str]:
        from sbv2bench.registry import Registry

        try:
            names = list(Registry.load().table(kind))
        except SBV2BenchError:
            return []
        if kind == "model":
            names += [name.partition("/")[2] for name in names]
        return sorted({name for name in names if name.startswith(incomplete)})

    return complete


def loaded_registry(catalog: Path | None = None) -> Registry:
    """Everything that has a name, with a warning for each plugin that did not load."""
    from sbv2bench.registry import Registry

    registry = Registry.load(catalog)
    for plugin in registry.plugins:
        if plugin.error:
            print(f"warning: plugin {plugin.name} did not load: {plugin.error}", file=sys.stderr)
    return registry


Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout, everything else to stderr.")]
Catalog = Annotated[Path | None, typer.Option(help="Your YAML catalog. Default: $SBV2BENCH_CATALOG or ./sbv2bench.yaml.")]
Models = Annotated[
    list[str],
    typer.Option("--model", help="Id, folder or hub id of a model; may be repeated.", autocompletion=completing("model")),
]
Metrics = Annotated[
    str | None,
    typer.Option(help="A comma-separated list (fid,pr,clip), or all that this machine can measure. Default: the suite's."),
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="Your captions: .txt, .json, or .csv, .jsonl, .parquet with a column caption (for score also file)."),
]
Reference = Annotated[
    str | None, typer.Option(metavar="DIR|ZIP|TAR|none", help="Your photographs, or none. Default: the suite's reference.")
]
Offload = Annotated[
    str,
    typer.Option(help="What of a model lies on the GPU: none (all of it stays there), model (one part), sequential (one layer)."),
]
Suite = Annotated[str, typer.Option(help="Suite to evaluate on.", envvar=SUITE_VARIABLE, autocompletion=completing("suite"))]
