"""A network that several processes train together: torch's DistributedDataParallel, its sums the same in every run."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class _Wrapped(nn.Module):
    """A network that, asked for nothing, gives nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *arguments: object, **options: object) -> Any:
        if arguments or options:
            return self.network(*arguments, **options)
        return nothing_of(self)


def nothing_of(network: nn.Module) -> Tensor:
    """A zero that all trained weights of a network have a part in."""
    return torch.stack([(parameter * 0).sum() for parameter in network.parameters() if parameter.requires_grad]).sum()


class SharedNetwork:
    """Gradients of a network as means over all processes, there once the backward pass of a step's last part is done."""

    def __init__(self, network: nn.Module) -> None:
        """network: on its device, the same weights on every process, what is trained marked as such; the group is joined.

        After its first backward pass DDP sorts gradients anew into the messages that it sums, and a sum's rounding depends on
        their places. That pass is made here, of nothing, so that a resumed run sums as an unbroken one does.
        """
        # A 1 x 1 convolution's gradient may lie in memory in two ways; DDP warns of a speed that nobody can measure.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        self._ddp = DistributedDataParallel(_Wrapped(network), init_sync=False, gradient_as_bucket_view=True)
        nothing: Tensor = self._ddp()
        nothing.backward()  # type: ignore[no-untyped-call]

    def __call__(self, *arguments: object, **options: object) -> Any:
        """The network's output, whose backward pass takes part in the sum."""
        return self._ddp(*arguments, **options)

    def summing(self, now: bool) -> AbstractContextManager[None]:
        """For a forward and a backward pass: whether gradients are summed after it, or wait for the step's last part."""
        return nullcontext() if now else self._ddp.no_sync()
