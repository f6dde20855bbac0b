"""Counting on the meta device: the bytes of tensors that live, and the functions that a GPU would run in place of meta's."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_LINEAR, _CONV2D, _GROUP_NORM, _LAYER_NORM = functional.linear, functional.conv2d, functional.group_norm, functional.layer_norm
_ATTENTION = functional.scaled_dot_product_attention
Weight = Tensor | None
T = TypeVar("T", Tensor, Tensor | None)


class LiveBytes(TorchDispatchMode):
    """Follows every storage on a device from the operation that makes it to its end, but those that were there before.

    now: bytes at this moment. peak: at the worst; peak_without_gradients: at the worst but for gradients of weights; both since
    the beginning or the last `part`. parts: name -> its (peak, peak_without_gradients).
    """

    def __init__(self, modules: Iterable[nn.Module], others: Iterable[Tensor] = (), device: str = "cpu") -> None:
        """modules, others: whose weights and which tensors were there before."""
        super().__init__()
        self.peak = self.peak_without_gradients = self.now = 0
        self.parts: dict[str, tuple[int, int]] = {}
        self._device = device
        self._gradients: dict[int, int] = {}
        parameters = [parameter for module in modules for parameter in module.parameters()]
        buffers = [buffer for module in modules for buffer in module.buffers()]
        self._own = [
            tensor.untyped_storage() for tensor in (*parameters, *buffers, *others)
        ]  # kept, so that their ids stay theirs
        self._known = {id(storage) for storage in self._own}
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._add_gradient) for parameter in trained]

    def __enter__(self) -> LiveBytes:
        super().__enter__()
        return self

    def stop(self) -> None:
        """Let the weights go."""
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # where operations that are made of others come whole
            with self:
                pieces = func.decompose(*args, **kwargs)
            if pieces is not NotImplemented:
                return pieces
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self._device:
                self._follow(tensor.untyped_storage())
        return result

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Peaks of a block alone, kept under a name: the largest where it is entered again."""
        self.peak, self.peak_without_gradients = self.now, self.now - sum(self._gradients.values())
        yield
        before = self.parts.get(name, (0, 0))
        self.parts[name] = max(before[0], self.peak), max(before[1], self.peak_without_gradients)

    def forget_gradients(self) -> None:
        """They are gone: what accumulates from here on is new."""
        self._gradients.clear()

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self.now += storage.nbytes()
        weakref.finalize(storage, self._forget, id(storage), storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.now)
        self.peak_without_gradients = max(self.peak_without_gradients, self.now - sum(self._gradients.values()))

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def _add_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._gradients[id(parameter)] = parameter.grad.nbytes


class ValuesOfMeta(TorchDispatchMode):
    """Where a value of a meta tensor is asked for, it is 1: whole steps run there, their tests of finite numbers among them."""

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.ones((), dtype=args[0].dtype).item()
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and str(kwargs.get("device")) == "cpu":
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return func(*args, **kwargs)


class GpuKernels:
    """Functions of torch.nn.functional that keep on the meta device what they would keep on a GPU.

    Attention is fused: it keeps its inputs, its output and a logarithm a row, not the matrix of weights. half: autocast to
    bfloat16, which has products and convolutions in bfloat16 and normalisations in float32 (PyTorch's list for CUDA). What a
    pass keeps is to the byte what PyTorch's own autocast keeps.
    """

    def __init__(self, half: bool) -> None:
        self.half, self.fused, self._float32 = half, True, set[int]()

    def keep_in_float32(self, *weights: Tensor) -> None:
        """Layers that are always in float32, by their weights."""
        self._float32 |= {id(weight) for weight in weights}

    @contextmanager
    def in_full_precision(self) -> Iterator[None]:
        """Outside of autocast, as scorers are."""
        half, self.half = self.half, False
        yield
        self.half = half

    @contextmanager
    def patched(self, *, fused: bool) -> Iterator[None]:
        """These in place of the functions of the same names, for every module in this process. fused: attention too."""
        self.fused = fused
        own: dict[str, Any] = {
            "linear": self._product(_LINEAR),
            "conv2d": self._product(_CONV2D),
            "group_norm": self._normalised(_GROUP_NORM),
            "layer_norm": self._normalised(_LAYER_NORM),
            "scaled_dot_product_attention": self.scaled_dot_product_attention,
        }
        with patch.multiple(functional, **own):
            yield

    def _product(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: object) -> Tensor:
            if id(weight) in self._float32:
                return original(x.float(), weight, bias, *rest)
            half = torch.bfloat16
            return original(self._cast(half, x), self._cast(half, weight), self._cast(half, bias), *rest)

        return run

    def _normalised(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(x: Tensor, shape: object, weight: Weight = None, bias: Weight = None, eps: float = 1e-5) -> Tensor:
            whole = torch.float32
            return original(self._cast(whole, x), shape, self._cast(whole, weight), self._cast(whole, bias), eps)

        return run

    def scaled_dot_product_attention(self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        query, key, value = (self._cast(torch.bfloat16, tensor) for tensor in (query, key, value))
        if not self.fused:
            return _ATTENTION(query, key, value, *rest, **options)
        output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return output

    def _cast(self, dtype: torch.dtype, tensor: T) -> T:
        return tensor.to(dtype) if self.half and tensor is not None else tensor
