"""What a LoRA's tensors do not say themselves: peft's adapter_config.json, each key understood or refused. No torch here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sbv2bench.errors import IntegrityError

WHOLE = 'save the whole network where it was trained, model.merge_and_unload().save_pretrained("unet"), and name it, holds: unet'
# Initialisations that leave the base's weights as they are; what they put into A and B is in the adapter's tensors.
# PiSSA, OLoRA, LoftQ, CorDA and LoRA-GA take what they put there out of the base, which the adapter does not hold.
_KEEPS_THE_BASE = frozenset({"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"})
_READ = frozenset({"lora_alpha", "r", "use_rslora", "alpha_pattern", "rank_pattern", "init_lora_weights", "peft_type", "bias"})
# Keys that change nothing in what stored tensors mean: who and what it was made by, which layers were chosen, how training
# went, how tensors were initialised, and sizes that other keys would have to switch on.
_WITHOUT_EFFECT = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
        *("lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
    }
)

# In a regular expression: what is no repetition (an escape, a class, the start of a group that is not counted), or one; and a
# group that is repeated. Of these some take for ever, and few patterns of layers have any.
_REPEATED = re.compile(r"\\.|\[\^?\]?[^]]*\]|\(\?|(?P<one>[*+?{])|(?P<group>\)[*+{])")
_REPETITIONS = 3

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class LoraSettings:
    """What a LoRA adapter's tensors do not say themselves; the fields are those of peft's adapter_config.json.

    alphas: name of a module -> its own alpha, as kohya-ss stores it; these come before all others. alpha_pattern,
    rank_pattern: end of a module's name, a regular expression -> its own alpha or rank. r: None where nobody says it.
    """

    lora_alpha: float
    use_rslora: bool = False  # alpha / sqrt(rank) in place of alpha / rank
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    r: int | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)

    def scale(self, module: str, rank: int) -> float:
        """What multiplies B A of one module."""
        alpha = self.alphas[module] if module in self.alphas else _of_pattern(self.alpha_pattern, module, self.lora_alpha)
        return float(alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def rank(self, module: str) -> int | None:
        """The rank that a module must have; None where nobody says it."""
        return _of_pattern(self.rank_pattern, module, self.r)


def _of_pattern(patterns: Mapping[str, T], module: str, default: D) -> T | D:
    """The value of the first pattern that fits the end of a name, as peft chooses it (peft.utils.other.get_pattern_key)."""
    return next((value for name, value in patterns.items() if re.match(rf"(.*\.)?({name})$", module)), default)


def _may_be_endless(pattern: str) -> bool:
    found = [match.lastgroup for match in _REPEATED.finditer(pattern)]
    return "group" in found or found.count("one") > _REPETITIONS


def lora_settings(config: Mapping[str, Any], where: Path) -> LoraSettings:
    """The settings of a peft config. where: its file.

    Raises IntegrityError for an initialisation that changes the base, for any other kind of adapter, and for a key that is
    not known and not off.
    """
    init = str(config.get("init_lora_weights", True)).lower()
    if init not in _KEEPS_THE_BASE:
        raise IntegrityError(f"{where}: init_lora_weights: {init} changes the base, and the adapter does not hold how", WHOLE)
    beyond = sorted(key for key, value in config.items() if value and key not in _READ | _WITHOUT_EFFECT)
    beyond += ["peft_type"] if config.get("peft_type", "LORA") not in ("LORA", None) else []
    beyond += ["bias"] if config.get("bias", "none") not in ("none", None) else []
    if beyond:
        found = ", ".join(f"{key}: {json.dumps(config[key], default=str)[:40]}" for key in beyond[:3])
        raise IntegrityError(f"{where}: found {found}, expected plain LoRA", WHOLE)
    if not isinstance(config.get("lora_alpha"), int | float):
        raise IntegrityError(f"{where}: found no lora_alpha, expected the settings of a LoRA")
    if not isinstance(config.get("r"), int | None):
        raise IntegrityError(f"{where}: found r: {config['r']!r:.40}, expected a whole number")
    for key in ("alpha_pattern", "rank_pattern"):
        try:
            list(map(re.compile, config.get(key) or {}))
            endless = next(filter(_may_be_endless, config.get(key) or {}), None)
            numbers = all(isinstance(value, int | float) for value in (config.get(key) or {}).values())
        except (re.error, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise IntegrityError(f"{where}: {key} is no table of regular expressions ({error})") from error
        if endless is not None:
            raise IntegrityError(f"{where}: {key} has {endless!r:.80}, expected the names of layers")
        if not numbers:
            raise IntegrityError(f"{where}: {key} has a value that is no number")
    return LoraSettings(
        lora_alpha=float(config["lora_alpha"]),
        use_rslora=bool(config.get("use_rslora")),
        alpha_pattern=config.get("alpha_pattern") or {},
        r=config.get("r"),
        rank_pattern=config.get("rank_pattern") or {},
    )
