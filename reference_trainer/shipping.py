"""Finished rungs become the package's weights: float16 safetensors, a manifest of hashes, and how they were trained."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from reference_trainer.ladder import RUNGS
from reference_trainer.run_folder import prepare
from sbv2bench.errors import PrerequisiteError


def ship_family(runs: Path, output: Path) -> list[str]:
    """Write every finished rung of `runs` to `output` in place of its own, keep the others; returns the rungs written.

    Of a student that was trained several times the first ships, never the best.

    output/<rung>/... the genuine layout in float16; output/training/<rung>.json seconds, figures and log;
    output/manifest.json the SHA-256 and size of every file. Raises PrerequisiteError where no rung is
    finished, InputError where output cannot be written.
    """
    finished = [rung for rung in RUNGS if not rung.training_seed and (runs / rung.name / "done.json").is_file()]
    if not finished:
        raise PrerequisiteError(f"ship: found no finished rung in {runs}", "python -m reference_trainer ladder mini")
    prepare(output / "training")
    for rung in finished:
        shutil.rmtree(output / rung.name, ignore_errors=True)
        _ship_training(runs / rung.name, output / "training", rung.name)
        if not rung.shipped:
            continue
        for source in sorted(path for path in (runs / rung.name / "export").rglob("*") if path.is_file()):
            target = output / rung.name / source.relative_to(runs / rung.name / "export")
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".safetensors":
                save_file(_half(load_file(source)), target, metadata={"format": "pt"})
                target.chmod(0o644)  # safetensors writes files that nobody else can read
            elif source.name == "config.json":  # diffusers writes where a network was read from, a path on this machine
                fields = {key: value for key, value in json.loads(source.read_text()).items() if key != "_name_or_path"}
                target.write_text(json.dumps(fields, indent=2) + "\n")
            elif source.name != "training.json":  # whose content is in training/<rung>.json
                shutil.copy(source, target)
        _name_shipped_bases(output / rung.name, rung.name)
    _write_manifest(output)
    return [rung.name for rung in finished]


def _name_shipped_bases(folder: Path, name: str) -> None:
    """In the package a student's base is a shipped model and its id a shipped one; in a run's folder both are paths."""
    for path, key in (
        (folder / "sbv2bench.json", "base"),
        (folder / "unet_lora" / "adapter_config.json", "base_model_name_or_path"),
    ):
        if not path.is_file():
            continue
        fields = json.loads(path.read_text())
        if fields.get(key) and not fields[key].startswith("package:"):  # ../../<rung>/export
            fields[key] = f"package:mini/{Path(fields[key]).parts[-2]}"
        if path.name == "sbv2bench.json":
            fields |= {"id": f"mini/{name}", "family": "mini", "location": f"package:mini/{name}"}
        path.write_text(json.dumps(fields, indent=1))


def _write_manifest(output: Path) -> None:
    files = {}
    for path in sorted(path for rung in RUNGS for path in (output / rung.name).rglob("*") if path.is_file()):
        content = path.read_bytes()
        files[path.relative_to(output).as_posix()] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (output / "manifest.json").write_text(json.dumps({"files": files}, indent=1) + "\n")


def _half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}


def _ship_training(run: Path, output: Path, name: str) -> None:
    """The log (every entry), the time and the figures of one rung, and its pictures."""
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    record = json.loads((run / "done.json").read_text()) | {"log": log}
    lines = json.dumps(record | {"log": "LOG"}, indent=1)
    entries = ",\n  ".join(json.dumps(entry) for entry in log)
    (output / f"{name}.json").write_text(lines.replace('"LOG"', f"[\n  {entries}\n ]") + "\n")
    grids = sorted(path for path in (run / "samples").glob("*.png") if path.stem.isdigit())
    if grids:  # a student's: the last of them
        shutil.copy(grids[-1], output / f"{name}-samples.png")
        shutil.copy(run / "samples" / "captions.txt", output / f"{name}-samples.txt")
    for picture in (*run.glob("*.png"), *run.glob("*.txt")):  # a base model's, with their captions
        shutil.copy(picture, output / f"{name}-{picture.name}")
