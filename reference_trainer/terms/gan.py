"""DMD2's adversarial term (arXiv 2405.14867, section 4.3): real latents against the student's, by what the LoRA teacher sees.

A small head on the bottleneck of the LoRA teacher's UNet tells noised real latents from noised latents of the student, at the
noise levels of VSD. The student's loss is the non-saturating one. What is ours: the UNet below the head learns from denoising
alone, and the head has an update of its own after it; DMD2 trains both by one optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from reference_trainer import noise
from reference_trainer.config import Frozen, Positive, Recipe, Regularisation
from reference_trainer.networks import Networks
from reference_trainer.pairs import Pairs
from reference_trainer.terms import Batch, Measured
from sbv2bench.diffusion import add_noise


class GanSettings(Frozen):
    """What a recipe says under `losses.gan`. images: world:SPLIT, or a folder of pictures with captions; pictures: of them."""

    weight: Positive
    learning_rate: Positive
    images: str
    pictures: int = Field(ge=1)


class Term:
    """The student's loss, and the head with its own."""

    Settings = GanSettings
    name, source = "gan", "prompts"
    figures: tuple[str, ...] = ("logit",)

    def __init__(
        self, settings: GanSettings, recipe: Recipe, networks: Networks, data: Callable[[Regularisation], Pairs]
    ) -> None:
        """data: the source of real latents. Raises what making these raises."""
        self.settings, self.recipe, self.networks = settings, recipe, networks
        self.learning_rate = settings.learning_rate
        self.real = data(
            Regularisation(
                kind="real", weight=1.0, batch_size=recipe.batch_size, distance="latents",
                pairs=settings.pictures, images=settings.images,
            )
        )  # fmt: skip
        channels = int(networks.teacher.config.block_out_channels[-1])
        with torch.random.fork_rng(devices=[]), torch.device(networks.device):
            torch.manual_seed(recipe.seed)
            self.network: nn.Module = nn.Sequential(
                nn.GroupNorm(math.gcd(32, channels), channels), nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1),
            )  # fmt: skip

    def weight(self, step: int) -> float:
        """Constant."""
        return self.settings.weight

    def measure(self, x0: Tensor, batch: Batch) -> Measured:
        """softplus(-logit) of the noised images.

        The adapter must be on until the backward pass through the UNet is done (checkpointing computes it again there), so its
        gradient is taken here, and the loss that is returned has that gradient and the true value.
        """
        draws, networks = batch.draws, self.networks
        assert draws is not None
        with torch.enable_grad(), networks.lora_teacher():
            leaf = x0.detach().requires_grad_()
            logit = self.network(self._features(leaf, draws.timesteps, draws.noise, batch.text)).flatten()
            loss = functional.softplus(-logit)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        linear = (x0 * gradient).flatten(1).sum(1)
        return Measured(linear - linear.detach() + loss.detach(), self.recipe.batch_size, {"logit": logit.detach()})

    def learn(self, x0: Tensor, batch: Batch, network: Callable[[Tensor], Tensor]) -> Measured:
        """softplus of the student's logit and of the real one's negative: a head that is right has large ones."""
        draws, networks = batch.draws, self.networks
        assert draws is not None
        captions, _, real = self.real.batch(batch.step, batch.samples)
        fresh = noise.normal("gan", self.recipe.seed, batch.step, batch.samples, networks.latent_shape)
        with torch.no_grad(), networks.lora_teacher():
            text = networks.encode_text(captions)
            generated = self._features(x0, draws.timesteps, draws.noise, batch.text)
            reference = self._features(real.to(networks.device), draws.timesteps, fresh, text)
        logits = network(torch.cat([generated, reference])).flatten().chunk(2)
        return Measured(functional.softplus(logits[0]) + functional.softplus(-logits[1]), self.recipe.batch_size)

    def _features(self, x0: Tensor, timesteps: Tensor, drawn: Tensor, text: Tensor) -> Tensor:
        """The bottleneck [B, C, h, w] float32 of the teacher's UNet, its adapter as it is; what lies behind is not computed."""
        networks, unet = self.networks, self.networks.teacher
        timesteps = timesteps.to(networks.device)
        x_t = add_noise(x0, drawn.to(networks.device), *networks.levels(timesteps))
        found: list[Tensor] = []

        def stop(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found.append(output)
            raise _Enough

        hook = unet.mid_block.register_forward_hook(stop)
        try:
            with networks.autocast():
                unet(x_t.to(unet.dtype), timesteps, encoder_hidden_states=text.to(unet.dtype))
        except _Enough:
            pass
        finally:
            hook.remove()
        return found[0].float()


class _Enough(Exception):
    """The bottleneck is reached."""
