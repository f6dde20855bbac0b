"""What the parts run on: a device, and models of the true architectures or small copies of them, written when first asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
import yaml
from random_inception import write_random_inception
from random_models import write_clip, write_sd, write_sd3, write_sdxl, write_taesd
from tiny_models import write_tiny_sd3, write_tiny_sdxl

from reference_trainer.architectures import own as architecture
from reference_trainer.rehearse.cutting import cut_autoencoder, cut_scorer, cut_text_encoder, cut_unet
from sbv2bench.latency.arithmetic import CeilingProbe
from sbv2bench.registry import Registry

OPENCLIP = {"openclip-b32": "ViT-B-32", "clip-vit-g-14-laion2b": "ViT-g-14", "hpsv2-v2.0": "ViT-H-14"}
_ONE_STEP = {"sampler": "one_step", "steps": 1, "prediction_type": "epsilon"}
_GUIDED = {"sampler": "multi_step", "steps": 25, "guidance_scale": 7.5, "scheduler": "dpmsolver++"}


def _one_level(config: dict[str, Any]) -> dict[str, Any]:
    """A network's config with one resolution, the UNet's without attention there: a processor compiles it in seconds."""
    first = ("block_out_channels", "attention_head_dim", "up_block_types")
    first += ("encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks")
    own = {name: config[name][:1] for name in first if name in config}
    return config | own | ({"down_block_types": config["down_block_types"][-1:]} if "down_block_types" in config else {})


@dataclass(frozen=True)
class Setting:
    """device: "cuda" or "cpu". true: the architectures' own sizes, else widths and depths cut by 16. folder: of the models,
    which the parts share. seconds: what is left for a part that takes what there is."""

    device: Literal["cuda", "cpu"]
    true: bool
    folder: Path
    seconds: float = 60.0

    def sd21(self) -> Path:
        """Stable Diffusion 2.1-base."""
        return self._sd21("sd21")

    def sd21_to_compile(self) -> Path:
        """The same; of small copies one without its middle block and all attention, which a processor compiles soonest."""
        return self._sd21("sd21" if self.true else "sd21-without-attention", mid_block_type=None)

    def _sd21(self, name: str, **changes: Any) -> Path:
        if self.true:
            return self._once(name, lambda folder: write_sd(folder, "sd21-base"))
        text = cut_text_encoder(architecture("sd21-base-text_encoder"))
        small = {
            "unet": _one_level(cut_unet(architecture("sd21-base-unet"), text["hidden_size"])) | changes,
            "text_encoder": text,
            "vae": _one_level(cut_autoencoder(architecture("sd-vae"))),
        }
        return self._once(name, lambda folder: write_sd(folder, "sd21-base", **small))

    def taesd(self) -> Path:
        """Its tiny decoder."""
        small = None if self.true else _one_level(cut_autoencoder(architecture("taesd")))
        return self._once("taesd", lambda folder: write_taesd(folder, small))

    def openclip(self, name: str) -> Path:
        """One of OPENCLIP."""
        own = open_clip.get_model_config(OPENCLIP[name])
        config = {key: own[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
        return self._once(name, lambda folder: write_clip(folder, config if self.true else cut_scorer(config)))

    def inception(self) -> Path:
        """The Inception of every FID, which has one size only."""

        def write(folder: Path) -> None:
            folder.mkdir()
            write_random_inception(folder / "inception.safetensors")

        return self._once("inception", write) / "inception.safetensors"

    def sdxl(self) -> Path:
        """Stable Diffusion XL."""
        return self._once("sdxl", write_sdxl if self.true else write_tiny_sdxl)

    def sd3(self) -> Path:
        """Stable Diffusion 3 medium: a flow-matching transformer."""
        return self._once("sd3", write_sd3 if self.true else write_tiny_sd3)

    def registry(self, sd21: Path, *extractors: str, suites: dict[str, object] | None = None) -> Registry:
        """The catalog with models local/one-step and local/25-steps of a folder, with suites, and with some extractors of the
        setting in place of the package's."""
        own = {"location": str(sd21)}
        models = {
            "local/one-step": _ONE_STEP | own,
            "local/25-steps": _GUIDED | own,
        }
        declared = {name: self._extractor(name) for name in extractors}
        path = self.folder / f"catalog-{'-'.join([sd21.name, *extractors])}.yaml"
        path.write_text(yaml.safe_dump({"models": models, "extractors": declared, "suites": suites or {}}), encoding="utf-8")
        return Registry.load(path)

    def with_taesd(self, sd21: Path) -> Registry:
        """The catalog with one model, local/one-step-taesd: of two that differ by their decoder, `latency` times both."""
        path = self.folder / "catalog-taesd.yaml"
        model = _ONE_STEP | {"location": str(sd21), "vae": str(self.taesd())}
        path.write_text(yaml.safe_dump({"models": {"local/one-step-taesd": model}}), encoding="utf-8")
        return Registry.load(path)

    def _extractor(self, name: str) -> dict[str, object]:
        own = Registry.built_in().extractors.get(name)
        if own is None:
            return {"kind": "open_clip", "location": str(self.openclip(name))}
        place = self.inception() if own.kind == "inception" else self.openclip(name)
        changes = {"location": str(place), "files": (), "architecture": ""}
        fields = own.model_copy(update=changes).model_dump(mode="json", exclude_defaults=True, exclude={"id"})
        return fields | {"replaces": True}

    def ceiling(self, dtype: torch.dtype) -> CeilingProbe:
        """A probe of bare products, which has looked once."""
        probe = CeilingProbe(self.device, dtype, sizes=None if self.true else (256, (1, 32, 32)))
        probe()
        return probe

    def _once(self, name: str, write: Callable[[Path], object]) -> Path:
        """The folder of a model, written whole or not at all: a part that is killed while it writes leaves none."""
        place, part = self.folder / name, self.folder / f".{name}"
        if not place.is_dir():
            shutil.rmtree(part, ignore_errors=True)
            write(part)
            part.rename(place)
        return place
