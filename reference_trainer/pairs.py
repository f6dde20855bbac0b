"""Image regularisation's data: captions with the clean latents that the student should make, and the inputs to make them of.

Latents are made once for a teacher, prompts and settings, in shards below the cache folder, whatever run asks for them, a few
at a time: they must not need more memory than training does.
Inputs are not stored: they are noise keyed by the pair's number (paired), or the noised latents themselves (real).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reference_trainer import losses, noise
from reference_trainer.config import Recipe, Regularisation
from reference_trainer.latent_shards import Make, all_latents
from reference_trainer.networks import Networks
from reference_trainer.prompts import PromptSource, shuffled_index
from sbv2bench import paths
from sbv2bench.data.caption_rows import complaint_of
from sbv2bench.data.digests import file_digest
from sbv2bench.data.images import ImageFolder
from sbv2bench.diffusion import add_noise
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.mini import rendering, world
from sbv2bench.samplers.schedulers import make_scheduler
from sbv2bench.samplers.timesteps import set_timesteps
from sbv2bench.specs import fingerprint

AT_ONCE = 8  # latents of a forward pass, where micro_batch_size does not say
_SEED = 0  # of the pairs' inputs and captions: theirs, not the run's, so that runs of all seeds share them
_WORLD_KEYS = 5 * 2**40  # of the world's pictures: no base model's run and no suite's reference has these


class Pairs:
    """A table of `count` captions and latents, and how far the student's latents are from them."""

    def __init__(self, recipe: Recipe, networks: Networks, prompts: PromptSource, progress: Callable[[int, int], None]) -> None:
        """Makes what is not in the cache, telling progress(done, count); the processes of a run share the work.

        Raises InputError, PrerequisiteError, and IntegrityError as `all_latents`.
        """
        assert recipe.regularisation is not None
        self.settings: Regularisation = recipe.regularisation
        self.recipe, self.networks, self.batch_size = recipe, networks, recipe.regularisation.batch_size
        source = _paired if self.settings.kind == "paired" else _real
        self._captions, make, identity = source(self.settings, networks, prompts)
        self.count = len(self._captions)
        identity |= {"precision": recipe.precision, "teacher_dtype": recipe.teacher_dtype, "shape": networks.latent_shape}
        folder = paths.pairs_dir() / fingerprint(identity)[:32]
        self._latents = all_latents(
            folder, self.count, networks.latent_shape, make, at_once=pairs_at_once(recipe), progress=progress
        )
        self._perceptual = _lpips(networks) if self.settings.distance == "lpips" else None

    def batch(self, step: int, rows: Sequence[int]) -> tuple[list[str], Tensor, Tensor]:
        """Captions, inputs [B, C, h, w] and latents [B, C, h, w] float32 of some rows of a step's batch of pairs."""
        place = step * self.batch_size + np.asarray(rows, dtype=np.int64)
        numbers = shuffled_index(self.recipe.seed, place // self.count, place % self.count, self.count).tolist()
        target = self._latents[numbers].float()
        captions = [self._captions[number] for number in numbers]
        shape = self.networks.latent_shape
        if self.settings.kind == "paired":
            return captions, noise.normal("pair", _SEED, 0, numbers, shape), target
        fresh = noise.normal("real", self.recipe.seed, step, rows, shape)
        return captions, add_noise(target, fresh, self.networks.alpha_T, self.networks.sigma_T), target

    def distance(self, x0: Tensor, target: Tensor) -> Tensor:
        """[B] between latents, or between the pictures that the tiny decoder makes of them."""
        if self.settings.distance == "latents":
            return losses.image_distance(x0, target)
        generated = self.networks.pixels(x0)
        with torch.no_grad():
            reference = self.networks.pixels(target)
        if self._perceptual is None:
            return losses.image_distance(generated, reference)
        distance: Tensor = self._perceptual(generated, reference, normalize=True)
        return distance.flatten()


def pairs_at_once(recipe: Recipe) -> int:
    """How many pairs' latents are made in one pass; a guided teacher's pass has twice as many rows."""
    return recipe.micro_batch_size or AT_ONCE


def _paired(settings: Regularisation, networks: Networks, prompts: PromptSource) -> tuple[list[str], Make, dict[str, object]]:
    """The teacher's deterministic samples (DDIM, trailing timesteps) from known noise (DMD, section 3.3: 50 steps, scale 3)."""
    parts, count = networks.components, settings.pairs
    captions = prompts.prompts_at(_SEED, 0, count, range(count))
    solver = {"scheduler": "ddim", "steps": settings.teacher_steps, "guidance_scale": settings.teacher_guidance_scale}
    spec = networks.teacher_spec.model_copy(update=solver)
    template = make_scheduler(spec, parts.scheduler)
    try:
        set_timesteps(copy.deepcopy(template), spec)  # refused before the first pair
    except InputError as error:
        fix = error.fix and error.fix.replace("--steps ", "regularisation.teacher_steps=")
        raise InputError(f"regularisation.teacher_steps: {error.message}", fix) from error

    def make(numbers: Sequence[int]) -> Tensor:
        scheduler = copy.deepcopy(template)
        set_timesteps(scheduler, spec, networks.device)
        scale = settings.teacher_guidance_scale
        with torch.inference_mode():
            text = parts.encode_text([captions[n] for n in numbers], guided=scale > 1.0)
            latents = noise.normal("pair", _SEED, 0, numbers, networks.latent_shape).to(networks.device)
            for t in scheduler.timesteps:
                with networks.autocast():
                    output = parts.predict(latents, t, text, scale)
                latents = scheduler.step(output, t, latents).prev_sample
        return latents

    used = {name: sha256 for name, sha256 in networks.teacher_hashes().items() if not name.startswith("teacher:vae/")}
    identity = {"kind": "paired", "teacher": used, "prompts": prompts.sha256, "count": count, **solver}
    return captions, make, identity


def _real(settings: Regularisation, networks: Networks, prompts: PromptSource) -> tuple[list[str], Make, dict[str, object]]:
    """Latents of real pictures and their captions: the world's, or those of a folder."""
    if settings.images.startswith("world:"):
        keys = _WORLD_KEYS + np.arange(settings.pairs, dtype=np.int64)
        scenes = world.scenes(settings.images.removeprefix("world:"), keys)
        captions, content = world.captions(scenes), [settings.images]

        def pictures(numbers: Sequence[int]) -> Tensor:
            chosen = np.array(numbers)
            return torch.from_numpy(rendering.render(scenes[chosen], keys[chosen], 0))
    else:
        folder = ImageFolder(_existing_folder(settings.images), one_size=False)
        files = folder.files[: settings.pairs]
        captions, content = [_caption_beside(path) for path in files], [file_digest(path) for path in files]
        content += [f"turned {path.name}" for path in files if path.name in folder.turned]

        def pictures(numbers: Sequence[int]) -> Tensor:
            size = networks.components.resolution
            squares = [_square(Image.fromarray(folder.read(n, n + 1)[0]), size) for n in numbers]
            return torch.from_numpy(np.stack(squares))

    def make(numbers: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            images = pictures(numbers).permute(0, 3, 1, 2).to(networks.device).float() / 127.5 - 1.0
            return encode(networks, images)

    identity: dict[str, object] = {
        "kind": "real",
        "teacher": networks.teacher_hashes(),
        "pictures": content,
        "captions": captions,
    }
    return captions, make, identity


def encode(networks: Networks, images: Tensor) -> Tensor:
    """Scaled latents [B, C, h, w] float32 of pictures [B, 3, H, W] in [-1, 1]: what `Networks.pixels` undoes."""
    vae = networks.components.vae
    with networks.autocast():
        encoded = vae.encode(images.to(next(vae.parameters()).dtype))
    latents: Tensor = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
    return (latents.float() - float(vae.config.get("shift_factor") or 0.0)) * float(vae.config.scaling_factor)


def _existing_folder(location: str) -> Path:
    folder = paths.as_typed(location)
    if not location or not folder.is_dir():
        raise InputError(f"regularisation.images: {location!r} is no folder, expected world:training or a folder of pictures")
    return folder


def _caption_beside(path: Path) -> str:
    text = path.with_suffix(".txt")
    if not text.is_file():
        raise InputError(f"regularisation.images: {path} has no caption, expected {text.name} beside it")
    try:
        caption = text.read_text("utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"regularisation.images: {text} cannot be read as UTF-8 text ({error})") from error
    if (complaint := complaint_of(caption)) is not None:
        raise IntegrityError(f"regularisation.images: {text} is {complaint}, expected the caption of {path.name}")
    return caption


def _square(image: Image.Image, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the middle square, Lanczos."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side)))


def _lpips(networks: Networks) -> Callable[..., Tensor]:
    """LPIPS on VGG features, by torchmetrics. Raises PrerequisiteError where its weights cannot be had."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True)
    except (OSError, RuntimeError, ImportError) as error:
        why = str(error).splitlines()[0]
        raise PrerequisiteError(
            f"regularisation.distance lpips: VGG's weights cannot be loaded ({why})", "regularisation.distance=pixels"
        ) from error
    return metric.net.to(networks.device).eval().requires_grad_(False)
