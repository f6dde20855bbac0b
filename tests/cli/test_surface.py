"""The command line is a contract: it changes on purpose, and then here."""

from __future__ import annotations

from typing import Any

import typer

from sbv2bench.cli import app

SURFACE = {
    "": ["--version", "--install-completion", "--show-completion"],
    "eval": [
        "--model", "--suite", "--metrics", "--limit", "--seed", "--repeats", "--images-per-prompt", "--prompts", "--reference",
        "--resolution", "--steps", "--guidance-scale", "--device", "--dtype", "--batch-size", "--offload", "--results",
        "--shard", "--save-images", "--catalog", "--dry-run", "--no-cache", "--json",
    ],
    "score": [
        "--images", "--suite", "--prompts", "--reference", "--metrics", "--device", "--results", "--catalog", "--dry-run",
        "--json",
    ],
    "compare": [
        "models", "--suite", "--results", "--run", "--at-least", "--chosen-on", "--all-pairs", "--format", "--worst", "--metric",
        "--output", "--catalog", "--json",
    ],
    "sweep": [
        "model", "--guidance-scale", "--steps", "--suite", "--metrics", "--limit", "--repeats", "--device", "--dtype",
        "--batch-size", "--results", "--html", "--catalog", "--json",
    ],
    "latency": [
        "--model", "--protocol", "--batch-size", "--compile", "--cuda-graphs", "--device", "--dtype", "--offload", "--results",
        "--catalog", "--json",
    ],
    "grid": [
        "models", "--suite", "--captions", "--seeds", "--output", "--native", "--device", "--dtype", "--offload", "--catalog",
    ],
    "watch": [
        "run", "--suite", "--every", "--metrics", "--limit", "--device", "--dtype", "--once", "--catalog", "--json",
    ],
    "verify": ["model", "--device", "--dtype", "--output", "--json"],
    "export": ["result", "--to", "--format", "--dataset", "--source", "--device", "--catalog"],
    "import-scores": ["scores", "--manifest", "--metric", "--tool", "--tool-version", "--results", "--catalog", "--json"],
    "merge-shards": ["folders"],
    "list": ["what", "--catalog", "--json"],
    "show": ["name", "--catalog", "--json"],
    "download": ["name", "--from", "--dtype", "--catalog", "--json"],
    "doctor": ["--json"],
    "reproduce": ["target", "--suite", "--results", "--use", "--plan", "--html", "--catalog", "--json"],
    "leaderboard": ["files", "--add", "--check", "--dir"],
    "cache": [],
    "cache path": [],
    "cache info": ["--json"],
    "cache prune": ["--all"],
    "cache verify": [],
}  # fmt: skip
DEFAULTS = {
    "suite": "mini", "metrics": None, "seed": 0, "repeats": 1, "device": "auto", "dtype": "auto", "batch_size": "auto",
    "save_images": "none", "limit": None, "steps": None, "guidance_scale": None, "dry_run": False, "no_cache": False,
    "as_json": False,
}  # fmt: skip


def commands(command: Any, name: str = "") -> dict[str, Any]:
    """Every command by its words, the root by none."""
    found = {name: command}
    for word, below in getattr(command, "commands", {}).items():
        found |= commands(below, f"{name} {word}".strip())
    return found


def test_commands_and_options_are_as_the_contract_says() -> None:
    found = {name: [param.opts[0] for param in command.params] for name, command in commands(typer.main.get_command(app)).items()}
    assert found == SURFACE


def test_defaults_are_as_the_contract_says() -> None:
    found = {param.name: param.default for param in commands(typer.main.get_command(app))["eval"].params}
    assert {name: found[name] for name in DEFAULTS} == DEFAULTS
    assert str(found["results"]) == "results"


def test_every_command_and_option_says_what_it_does() -> None:
    for name, command in commands(typer.main.get_command(app)).items():
        assert command.help, name
        assert all(param.help for param in command.params), name
