"""A training step without weights or data: its passes run on the meta device, where memory and operations can be counted.

Memory is what tensors take, to the byte: each storage is followed from the operation that makes it to its end, so saved
activations, gradients in flight and what checkpointing makes again are all in the peak. Not in it: the workspaces of
kernels, the allocator's rounding, and what libraries keep for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from reference_trainer.accounting import GpuKernels, LiveBytes
from reference_trainer.architectures import Blank
from reference_trainer.config import Recipe
from reference_trainer.losses import scored_count

_VGG_FEATURES = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3


@dataclass(frozen=True)
class Peak:
    """Bytes at the worst moment of a pass. total: with gradients of weights as they come; activations: without those."""

    total: int
    activations: int


class Rehearsal:
    """The passes of one step of a recipe, each run by `flops` or `peak` alone. side: of the latents, in latent pixels.

    They do what `step.Trainer` and `networks.Networks` do, in the same order, without their numbers.
    """

    def __init__(self, recipe: Recipe, blank: Blank, side: int) -> None:
        self.recipe, self.blank, self.side = recipe, blank, side
        self.scores = {name: loss for name, loss in (("clip", recipe.clip), ("hps", recipe.hps)) if loss is not None}
        last_layers = [unet.conv_out.weight for unet in (blank.teacher, blank.student)]
        self._kernels = GpuKernels(recipe.precision == "bfloat16", last_layers)

    def student(self, batch: int) -> None:
        """The student's micro-batch, in the order of `step.Trainer`: images, both teachers, scores, then backward."""
        x0 = self._output(self.blank.student, batch)
        leaf = x0.detach().requires_grad_()
        self.teachers(batch)
        for name, loss in self.scores.items():
            if count := scored_count(batch, loss.share):
                self._score(name, leaf[:count])
        _backward(x0)

    def generate(self, batch: int) -> None:
        """The student's images and their backward pass alone."""
        _backward(self._output(self.blank.student, batch))

    def images(self, batch: int) -> None:
        """The student's images without gradient: what further updates of the LoRA teacher, its warm-up and pictures take."""
        with torch.no_grad():
            self._output(self.blank.student, batch)

    def sample(self, batch: int) -> None:
        """A sampler's images of so many captions, as a grid takes them: text, student, the teacher's decoder."""
        with torch.no_grad():
            self.text(batch)
            self._pixels(self._output(self.blank.student, batch), "full")

    def panels(self, batch: int) -> None:
        """The student's images and both teachers' views of them, then the decoder, as many at a time."""
        with torch.no_grad():
            x0 = self._output(self.blank.student, batch)
            self.teachers(batch)
            self._pixels(x0, "tiny" if self.blank.tiny_decoder is not None else "full")

    def decode(self, batch: int, decoder: str) -> None:
        """Pictures of so many latents by the "tiny" or the "full" decoder, without gradient."""
        with torch.no_grad():
            self._pixels(self._latents(batch), decoder)

    def encode(self, batch: int) -> None:
        """Latents of so many real pictures by the teacher's encoder."""
        vae = self.blank.vae
        side = self.side * 2 ** (len(vae.config.block_out_channels) - 1)
        with torch.no_grad():
            vae.encode(torch.empty(batch, vae.config.in_channels, side, side).to(next(vae.parameters()).dtype))

    def make_pairs(self, batch: int) -> None:
        """So many pairs of a regularisation: one prediction of the frozen teacher, guided where it is, or an encoder's."""
        settings = self.recipe.regularisation
        if settings is not None and settings.kind == "real":
            self.encode(batch)
        elif settings is not None:
            self.frozen_teacher(batch * (2 if settings.teacher_guidance_scale > 1.0 else 1))

    def teachers(self, batch: int) -> None:
        """Both teachers' predictions in the student's loss, guided, without gradient."""
        frozen, lora = teacher_calls(self.recipe)
        self.frozen_teacher(frozen * batch)
        with torch.no_grad():
            self._output(self.blank.teacher, lora * batch)

    def frozen_teacher(self, batch: int) -> None:
        """The frozen teacher's predictions, without gradient."""
        with torch.no_grad(), self._without_adapter():
            self._output(self.blank.teacher, batch)

    def lora_teacher(self, batch: int) -> None:
        """The LoRA teacher's own update on a micro-batch."""
        _backward(self._output(self.blank.teacher, batch))

    def score(self, name: str, batch: int) -> None:
        """Decoding, scoring by "clip" or "hps", and the gradient of so many latents."""
        self._score(name, self._latents(batch).requires_grad_())

    def regularise(self, batch: int) -> None:
        """The student on a micro-batch of pairs: images, their distance, backward."""
        x0 = self._output(self.blank.student, batch)
        self._distance(x0.detach())
        _backward(x0)

    def distance(self, batch: int) -> None:
        """The distance of so many pairs alone, and the gradient of the latents."""
        self._distance(self._latents(batch))

    def text(self, batch: int) -> None:
        """Text states of so many captions."""
        with torch.no_grad():
            self.blank.text_encoder(torch.zeros(batch, self._length(), dtype=torch.long))

    def flops(self, run: Callable[..., None], *arguments: Any) -> int:
        """Floating-point operations of a pass: products, convolutions and attention; a multiplication and an addition are two."""
        with torch.device("meta"), FlopCounterMode(display=False) as counter, self._kernels.patched(fused=False):
            run(*arguments)
        self._forget_gradients()
        return int(counter.get_total_flops())

    def peak(self, run: Callable[..., None], *arguments: Any) -> Peak:
        """Bytes that a pass takes besides the weights, in the recipe's precision and by fused attention."""
        with torch.device("meta"), LiveBytes(self.blank.modules()) as live, self._kernels.patched(fused=True):
            run(*arguments)
        self._forget_gradients()
        return Peak(live.peak, live.peak_without_gradients)

    def _output(self, unet: Any, batch: int) -> Tensor:
        """A UNet's output float32 [B, C, h, w]."""
        width = unet.config.cross_attention_dim
        inputs = self._latents(batch).to(unet.dtype), torch.zeros(batch, dtype=torch.long)
        output: Tensor = unet(*inputs, encoder_hidden_states=torch.empty(batch, self._length(), width, dtype=unet.dtype)).sample
        return output[:, : unet.config.in_channels].float()

    def _pixels(self, latents: Tensor, decoder: str) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1]."""
        vae = self.blank.tiny_decoder if decoder == "tiny" else self.blank.vae
        decoded: Tensor = vae.decode((latents / vae.config.scaling_factor).to(next(vae.parameters()).dtype)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def _score(self, name: str, leaf: Tensor) -> None:
        scorer, pixels = self.blank.scorers[name], self._pixels(leaf, self.scores[name].decoder)
        size = scorer.visual.image_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        if tuple(pixels.shape[-2:]) != size:
            pixels = functional.interpolate(pixels, size, mode="bicubic", antialias=True)
        with self._full_precision():
            embeds = scorer.encode_image((pixels - torch.zeros(1, 3, 1, 1)) / torch.ones(1, 3, 1, 1), normalize=True)
        torch.autograd.grad(embeds.sum(), leaf)

    def _distance(self, x0: Tensor) -> None:
        if self.recipe.regularisation is None or self.recipe.regularisation.distance == "latents":
            return
        leaf = x0.requires_grad_()
        generated = self._pixels(leaf, "tiny")
        with torch.no_grad():
            reference = self._pixels(torch.empty_like(x0), "tiny")
        if self.blank.perceptual is None:
            distance = functional.smooth_l1_loss(generated, reference)
        else:
            with self._full_precision():
                distance = _perceptual_distance(self.blank.perceptual, generated, reference)
        torch.autograd.grad(distance, leaf)

    def _latents(self, batch: int) -> Tensor:
        return torch.empty(batch, self.blank.teacher.config.in_channels, self.side, self.side)

    def _length(self) -> int:
        return int(self.blank.text_encoder.config.max_position_embeddings)

    @contextmanager
    def _full_precision(self) -> Iterator[None]:
        """Outside of autocast, as scorers are."""
        half, self._kernels.half = self._kernels.half, False
        yield
        self._kernels.half = half

    @contextmanager
    def _without_adapter(self) -> Iterator[None]:
        """The teacher with its adapter off, where it has one."""
        if self.recipe.lora_teacher is None:
            yield
            return
        self.blank.teacher.disable_adapters()
        yield
        self.blank.teacher.enable_adapters()
        for name, parameter in self.blank.teacher.named_parameters():
            parameter.requires_grad_("lora_" in name)

    def _forget_gradients(self) -> None:
        for network in (self.blank.teacher, self.blank.student):
            network.zero_grad(set_to_none=True)


def teacher_calls(recipe: Recipe) -> tuple[int, int]:
    """UNet passes an image of the frozen teacher and of the LoRA teacher in the student's loss; guidance takes two."""
    if recipe.vsd is None:
        return 0, 0
    scale, own = recipe.vsd.teacher_guidance_scale, recipe.vsd.lora_teacher_guidance_scale
    return 1 if scale == 1.0 else 2, 1 if (scale if own == "same" else own) == 1.0 else 2


def _backward(output: Tensor) -> None:
    output.backward(torch.empty_like(output))  # type: ignore[no-untyped-call]


def _perceptual_distance(layers: Any, generated: Tensor, reference: Tensor) -> Tensor:
    """LPIPS: squared differences of normalised features after five of VGG-16's layers."""
    total = torch.zeros(())
    for place, layer in enumerate(layers[: _VGG_FEATURES[-1] + 1]):
        generated, reference = layer(generated), layer(reference)
        if place in _VGG_FEATURES:
            one, other = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-8) for x in (generated, reference))
            total = total + (one - other).square().mean()
    return total
