"""Counting on the meta device: the bytes of tensors that live, and the functions that a GPU would run in place of meta's."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_LINEAR, _CONV2D, _GROUP_NORM, _LAYER_NORM = functional.linear, functional.conv2d, functional.group_norm, functional.layer_norm
_ATTENTION = functional.scaled_dot_product_attention


class LiveBytes(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end, but those of some modules' own weights.

    now: bytes at this moment. peak: at the worst. peak_without_gradients: at the worst but for gradients of weights.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.peak = self.peak_without_gradients = 0
        self.now = self._gradients = 0
        parameters = [parameter for module in modules for parameter in module.parameters()]
        buffers = [buffer for module in modules for buffer in module.buffers()]
        self._own = [tensor.untyped_storage() for tensor in (*parameters, *buffers)]  # kept, so that their ids stay theirs
        self._known = {id(storage) for storage in self._own}
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._add_gradient) for parameter in trained]

    def __enter__(self) -> LiveBytes:
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self.now += storage.nbytes()
        weakref.finalize(storage, self._forget, id(storage), storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.now)
        self.peak_without_gradients = max(self.peak_without_gradients, self.now - self._gradients)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def _add_gradient(self, parameter: Tensor) -> None:
        self._gradients += parameter.grad.nbytes if parameter.grad is not None else 0


class GpuKernels:
    """Functions of torch.nn.functional that keep on the meta device what they would keep on a GPU.

    Attention is fused: it keeps its inputs, its output and a logarithm a row, not the matrix of weights. half: autocast to
    bfloat16, which has products and convolutions in bfloat16 and normalisations in float32 (PyTorch's list for CUDA).
    float32: weights of layers that are always in float32. What a pass keeps is to the byte what PyTorch's own autocast keeps.
    """

    def __init__(self, half: bool, float32: Iterable[Tensor]) -> None:
        self.half, self.fused, self._float32 = half, True, {id(weight) for weight in float32}

    @contextmanager
    def patched(self, *, fused: bool) -> Iterator[None]:
        """These in place of the functions of the same names, for every module in this process. fused: attention too."""
        self.fused = fused
        names = ("group_norm", "layer_norm", "scaled_dot_product_attention")
        own = {name: getattr(self, name) for name in names}
        with patch.multiple(functional, linear=self._product(_LINEAR), conv2d=self._product(_CONV2D), **own):
            yield

    def _product(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> Tensor:
            if id(weight) in self._float32:
                return original(x.float(), weight, bias, *rest)
            return original(*self._cast(torch.bfloat16, x, weight, bias), *rest)

        return run

    def group_norm(self, x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        x, weight, bias = self._cast(torch.float32, x, weight, bias)
        return _GROUP_NORM(x, groups, weight, bias, eps)

    def layer_norm(self, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        x, weight, bias = self._cast(torch.float32, x, weight, bias)
        return _LAYER_NORM(x, shape, weight, bias, eps)

    def scaled_dot_product_attention(self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        query, key, value = self._cast(torch.bfloat16, query, key, value)
        if not self.fused:
            return _ATTENTION(query, key, value, *rest, **options)
        output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return output

    def _cast(self, dtype: torch.dtype, *tensors: Any) -> tuple[Any, ...]:
        return tuple(x.to(dtype) if self.half and x is not None else x for x in tensors)
