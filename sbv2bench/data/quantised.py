"""Weights that are no plain numbers, but a program's code for them: told by names and configs, and refused. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from sbv2bench.data.assets import NOT_QUANTISED, read_json
from sbv2bench.data.single_file import header
from sbv2bench.errors import InputError

# Names beside which a weight means something only to the library that wrote it.
_OF = {
    "bitsandbytes": r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB)$|\.quant_state\.",
    "nunchaku": r"\.(wscales|wzeros|wcscales|smooth_factor(_orig)?|smooth|proj_down)$",
    "GPTQ or AWQ": r"\.(qweight|qzeros|g_idx)$",
    "scaled float8": r"(^|\.)(scale_weight|weight_scale(_inv)?|scale_input|input_scale|scaled_fp8)$",
    "torchao or quanto": r"\.weight[.:]_(data|scale|qdata)$",
}
_NUMBERS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


def check_not_quantised(files: Iterable[Path]) -> None:
    """Raises InputError for the first file whose weights are quantised. files: weights and configs of a model."""
    for path in files:
        if path.suffix == ".safetensors":
            _check_names(path)
        elif path.name == "config.json" and isinstance(found := read_json(path).get("quantization_config"), dict):
            raise _quantised(path, str(found.get("quant_method") or found.get("quant_type") or "a quantised network"))


def _check_names(path: Path) -> None:
    tensors = header(path)
    for program, pattern in _OF.items():
        if name := next((name for name in tensors if re.search(pattern, name)), None):
            raise _quantised(path, f"{name}, as {program} writes them")
    for name, entry in tensors.items():
        if name.endswith("weight") and len(entry["shape"]) > 1 and entry["dtype"] not in _NUMBERS:
            raise _quantised(path, f"{name} of {entry['dtype']}")


def _quantised(path: Path, found: str) -> InputError:
    return InputError(f"{path}: quantised weights ({found}), expected those of float32, float16 or bfloat16", NOT_QUANTISED)
