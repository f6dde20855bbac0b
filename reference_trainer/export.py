"""What a run leaves: a folder that sbv2bench and diffusers load, with the moving average for weights where there is one.

A fully trained student is `unet/`, a LoRA student `unet_lora/` (peft's layout) on the model that it started from. With
`whole` the teacher's other parts are copied beside it, without them `sbv2bench.json` names the teacher as the base.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from reference_trainer.networks import STUDENT, Networks
from sbv2bench.atomic import whole_folder
from sbv2bench.data.assets import NAMED
from sbv2bench.data.chain import ADAPTER, chain
from sbv2bench.samplers.components import load_unet
from sbv2bench.weights import fold_lora, load_adapter


def export_student(networks: Networks, folder: Path, *, whole: bool, record: dict[str, Any]) -> None:
    """Write the student's folder, whole or not at all, in place of what was there; record goes into training.json.

    float32 weights; sbv2bench.json is the ModelSpec by which sbv2bench samples it exactly as the trainer does.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as part:
        with networks.averaged():
            if networks.recipe.student.lora is None:
                _write_unet(networks, part / "unet")
            else:
                _write_adapter(networks, part / ADAPTER, _seen_from(folder, networks.start_spec.location))
        spec = networks.student_spec().model_dump(mode="json", exclude_defaults=True)
        if whole:
            _copy_parts(networks, part)
        elif networks.recipe.student.lora is None:  # an adapter's base is named by its own config
            spec["base"] = _seen_from(folder, networks.teacher_spec.location)
        (part / "sbv2bench.json").write_text(json.dumps(spec, indent=1))
        (part / "training.json").write_text(json.dumps(record, indent=1))


def _write_unet(networks: Networks, folder: Path) -> None:
    networks.student.register_to_config(_name_or_path="")  # else the path on this machine is written
    networks.student.save_config(folder)
    tensors = {key: value.detach().cpu().contiguous() for key, value in networks.student.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def _seen_from(folder: Path, location: str) -> str:
    """A location as a folder may name it: a path relative to it, so that both can be moved together."""
    if location.startswith(NAMED):
        return location
    return os.path.relpath(Path(location).expanduser().resolve(), folder.resolve())


def _write_adapter(networks: Networks, folder: Path, base: str) -> None:
    folder.mkdir()
    tensors = get_peft_model_state_dict(networks.student, adapter_name=STUDENT)
    named = {f"base_model.model.{key}": value.detach().float().cpu().contiguous() for key, value in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = networks.student.peft_config[STUDENT].to_dict()
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, default=str))


def _copy_parts(networks: Networks, folder: Path) -> None:
    """The teacher's other parts, file by file, so that stock diffusers loads the folder."""
    source = chain(networks.teacher_spec)[0].folder
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(source / part, folder / part)
    index = json.loads((source / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
    if networks.recipe.student.lora is not None:  # diffusers knows no unet_lora/: fold it, so that it loads the student's UNet
        start = load_unet(networks.start_spec, torch.float32, networks.registry)
        folded = fold_lora(start.state_dict(), *load_adapter(folder / ADAPTER))
        start.load_state_dict(folded)
        start.register_to_config(_name_or_path="")
        start.save_pretrained(folder / "unet")
        shutil.rmtree(folder / ADAPTER)
