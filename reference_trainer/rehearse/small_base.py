"""Small copies of a recipe's base on disk: the true classes in Hugging Face's layout, random weights from a seed.

They make noise, not pictures. What a copy shares with its original is every class, every config key but widths and depths,
the noise schedule's file, the tokenizer and the names of files and tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel

from reference_trainer.base_models.tokenizer import END, START, write_files
from reference_trainer.rehearse.cutting import Config, cut_autoencoder, cut_scorer, cut_text_encoder, cut_unet
from sbv2bench.samplers.loading import quiet

VGG_FILE = "vgg16-397923af.pth"  # torchvision's name of the weights whose features LPIPS compares
# Stable Diffusion's safety checker reads pictures by CLIP's ViT-L/14, cut here as everything is.
_CHECKER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 16, "patch_size": 14}


def write_pipeline(folder: Path, configs: dict[str, Config], seed: int, tokenizer: Path | None = None) -> Path:
    """Write a StableDiffusionPipeline's folder; returns it.

    configs: the originals of "unet", "text_encoder", "vae", "scheduler" and "index", the model_index.json. tokenizer: a
    folder to copy; None writes CLIP's own. A feature extractor and a safety checker are written where the index names them.
    """
    text, index = cut_text_encoder(configs["text_encoder"]), configs["index"]
    with _seeded(seed):
        parts = {
            "unet": UNet2DConditionModel.from_config(cut_unet(configs["unet"], text["hidden_size"])),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_dict(text)),
            "vae": _autoencoder(configs["vae"]),
        }
    for name, network in parts.items():
        network.save_pretrained(folder / name)
    (folder / "scheduler").mkdir()
    _write_json(folder / "scheduler" / "scheduler_config.json", configs["scheduler"])
    if tokenizer is None:
        write_clip_tokenizer(folder / "tokenizer", padding="!" if text["hidden_act"] == "gelu" else "<|endoftext|>")
    else:
        shutil.copytree(tokenizer, folder / "tokenizer")
    if index.get("feature_extractor", [None])[0]:
        CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    if index.get("safety_checker", [None])[0]:
        with _seeded(seed):
            StableDiffusionSafetyChecker(CLIPConfig(vision_config=_CHECKER, projection_dim=48)).save_pretrained(
                folder / "safety_checker"
            )
    _write_json(folder / "model_index.json", index)
    return folder


def write_clip_tokenizer(folder: Path, padding: str) -> None:
    """Write CLIP's own tokenizer (49,408 tokens), as open_clip ships it. padding: the token after the last; SD 2.1 has "!"."""
    own = SimpleTokenizer(context_length=77)
    renamed = {"<start_of_text>": START, "<end_of_text>": END}
    vocabulary = {renamed.get(token, token): number for token, number in own.encoder.items()}
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    write_files(folder, vocabulary, merges, own.context_length, padding, add_prefix_space=False)


def write_other_unet(folder: Path, like: Path, seed: int, scheduler: Config) -> Path:
    """Write a pipeline that shares everything with another but the UNet's weights and the scheduler's file; returns it.

    What a start of a student is to its teacher: SD-Turbo to SD 2.1, for one.
    """
    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("unet"))
    with _seeded(seed):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(like / "unet"))
    unet.save_pretrained(folder / "unet")
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    return folder


def write_tiny_decoder(folder: Path, config: Config, seed: int) -> Path:
    """Write an AutoencoderTiny's folder; returns it."""
    with _seeded(seed):
        network = _autoencoder(config)
    network.save_pretrained(folder)
    return folder


def write_scorer(folder: Path, config: Config, seed: int) -> Path:
    """Write a CLIP in OpenCLIP's layout (open_clip_config.json, open_clip_model.safetensors); returns the folder.

    config: the original's embed_dim, vision_cfg and text_cfg.
    """
    folder.mkdir(parents=True)
    small = cut_scorer(config)
    with _seeded(seed):
        network = open_clip.CLIP(**small)
    _write_json(folder / "open_clip_config.json", {"model_cfg": small, "preprocess_cfg": {}})
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def write_vgg(torch_home: Path, seed: int) -> Path:
    """Write random weights of VGG-16 where torchvision looks for its own, below a folder for TORCH_HOME; returns the file.

    The network is as it is: LPIPS knows no smaller one. Its classifier, which LPIPS never asks, is zero and takes no disk.
    """
    from torchvision.models import vgg16

    path = torch_home / "hub" / "checkpoints" / VGG_FILE
    path.parent.mkdir(parents=True)
    with _seeded(seed), torch.device("meta"):
        shapes = vgg16(weights=None).state_dict()
    random = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in shapes.items():
        if name.startswith("classifier."):
            state[name] = torch.zeros(1).expand(value.shape)
        else:  # He et al. 2015, so that features neither die nor grow over thirteen layers
            scale = (2.0 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.0
            state[name] = torch.randn(value.shape, generator=random) * scale
    torch.save(state, path)
    return path


def _autoencoder(config: Config) -> AutoencoderKL | AutoencoderTiny:
    small = cut_autoencoder(config)
    if config.get("_class_name") != "AutoencoderTiny":
        return AutoencoderKL.from_config(small)
    network = AutoencoderTiny.from_config(small)
    with torch.no_grad():  # as initialised, half of its pixels are below black, where a clamp kills every gradient
        network.decoder.layers[-1].weight *= 10.0
        network.decoder.layers[-1].bias.fill_(0.5)
    return network


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        yield


def _write_json(path: Path, content: Config) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
