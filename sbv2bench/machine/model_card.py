"""What `sbv2bench show` says of a model: a card in plain words, from its declaration and from what is on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from sbv2bench.data.assets import HUB
from sbv2bench.machine.inventory import network, sampling, why_lacking
from sbv2bench.provenance import LIBRARIES, library_version
from sbv2bench.registry import FIRST_LOOK, Registry
from sbv2bench.results import verifications
from sbv2bench.results.verifications import Sent
from sbv2bench.specs import ModelSpec

_SHOWN = 3  # verifications that are told one by one
_INFERRED = {"size_gb": "size", "arguments": "what it is called with", "guidance_scale": "guidance"}  # fields in words


def card(registry: Registry, model: ModelSpec) -> list[tuple[str, str]]:
    """(heading, text) of every line that a model has something to say in, in the order of reading."""
    return [(heading, text) for heading, text in _lines(registry, model) if text]


def _lines(registry: Registry, model: ModelSpec) -> Iterator[tuple[str, str]]:
    yield "what it is", model.description
    yield "sampling", _sampling(model)
    if model.has_network():
        yield "guidance", guidance_in_words(model)
        yield "called with", ", ".join(f"{name}={value}" for name, value in _arguments(model).items())
        yield "images", _size(model)
        yield "dtype", f"{model.dtype or 'float16'} on a GPU, float32 on a CPU"
        yield "size", "" if model.size_gb is None else f"{model.size_gb:g} GB to download"
    yield "licence", model.licence
    yield "gated", _gated(model)
    yield "files", ", with ".join(_files(model))
    yield "origin", model.origin
    yield "teacher", model.teacher
    yield "settings from", model.source
    yield "stated nowhere", ", ".join(_INFERRED.get(name, name.replace("_", " ")) for name in model.inferred)
    yield "provisional", model.provisional
    yield "needs", _needs(model)
    yield "changes with", model.changes_with
    yield "published in", _tables(model)
    yield "verified", _verified(registry, model)
    here = not why_lacking(model, registry)
    yield "on this machine", "" if model.images == "none" else "yes" if here else "no"
    yield "next", _next(registry, model, here)


def _sampling(model: ModelSpec) -> str:
    if not model.has_network():
        return sampling(model)
    steps = model.network_evaluations()
    words = f"{sampling(model)}: {steps} step{'s' if steps > 1 else ''}"
    levels = model.timesteps or model.sigmas or ((model.timestep,) if model.one_step else ())
    if levels:
        words += f" at {'sigma' if model.sigmas else 't'} = {', '.join(f'{level:g}' for level in levels)}"
    scheduler = "" if model.scheduler == "folder" else f", scheduler {model.scheduler}"
    return f"{words}, by {model.pipeline or model.sampler}{scheduler}"


def guidance_in_words(model: ModelSpec) -> str:
    """What a model's guidance scale means, and what it costs: forward passes at each noise level."""
    argument = f" ({model.guidance_argument})" if model.guidance_argument != "guidance_scale" else ""
    scale = f"{model.guidance_scale:g}{argument}"
    if model.guidance == "embedded":
        return f"{scale}, an input of the network: one forward pass a step"
    if model.guidance_scale <= model.no_guidance:
        if model.one_step:
            return "none: one forward pass"
        distilled = ", since it was distilled to do without" if model.guidance == "none" else ""
        return f"none: one forward pass a step{distilled} (scale {scale}; above {model.no_guidance:g} each step takes two)"
    rule = "cond + g (cond - uncond)" if model.no_guidance == 0 else "uncond + g (cond - uncond)"
    negative = f", negative prompt {model.negative_prompt!r}" if model.negative_prompt.strip() else ""
    return f"{scale}, as {rule}: two forward passes a step{negative}"


def _arguments(model: ModelSpec) -> dict[str, object]:
    """What else the pipeline's call is given."""
    length = {} if model.max_sequence_length is None else {"max_sequence_length": model.max_sequence_length}
    return {**length, **model.arguments}


def _size(model: ModelSpec) -> str:
    if model.resolution is None:
        return f"as its {network(model) or 'network'} was made for"
    return f"{model.width or model.resolution} x {model.resolution} pixels, width x height"


def _gated(model: ModelSpec) -> str:
    if not model.location.startswith(HUB):
        return ""
    page = (model.base or model.location).removeprefix(HUB).partition("@")[0]
    owner, name = page.split("/")[:2]
    return f"yes: accept the licence at https://huggingface.co/{owner}/{name}, then hf auth login" if model.gated else "no"


def _files(model: ModelSpec) -> Iterator[str]:
    what = {"unet": "a UNet, ", "lora": "a LoRA, "}.get(model.holds, "")
    if model.location:
        yield f"{what}{model.location}" + (f" at {model.revision}" if model.revision else "")
    if model.merge is not None:
        yield f"{model.merge.weight:g} of {model.merge.a} and {1 - model.merge.weight:g} of {model.merge.b}, merged on load"
    if model.base:
        yield f"the rest of {model.base}"
    if model.vae:
        yield f"the autoencoder of {model.vae}"
    yield from (f"the {part} of {location}" for part, location in model.parts.items())
    yield from (f"the LoRA {adapter.location} at scale {adapter.scale:g}" for adapter in model.adapters)


def _needs(model: ModelSpec) -> str:
    library = next((name for name in LIBRARIES if model.requires.startswith(name)), "")
    found = library_version(LIBRARIES[library]) if library else None
    return f"{model.requires} (found {found or 'none'})" if model.requires else ""


def _tables(model: ModelSpec) -> str:
    rows = (row.partition("/") for row in model.published_as)
    return ", ".join(f"table {table} ({method})" for table, _, method in rows)


def _verified(registry: Registry, model: ModelSpec) -> str:
    if not model.has_network() or verifications.suite_for(model.family, registry) is None:
        return ""
    sent = sorted(verifications.of_model(model), key=lambda one: one.made.date_utc, reverse=True)
    if not sent:
        return "by us, who trained it" if model.verified else "by nobody yet: no one has sent in a run of these weights"
    times = "once" if len(sent) == 1 else f"{len(sent)} times"
    told = "; ".join(map(_who, sent[:_SHOWN])) + (f"; and {len(sent) - _SHOWN} more" if len(sent) > _SHOWN else "")
    return f"{times}, on {told}"


def _who(sent: Sent) -> str:
    versions = [f"{name} {sent.made.libraries[name]}" for name in ("torch", "diffusers") if sent.made.libraries.get(name)]
    return f"{sent.made.card} ({', '.join([sent.made.dtype, *versions, sent.made.date_utc[:10]])})"


def _next(registry: Registry, model: ModelSpec, here: bool) -> str:
    """The command to type: to get it, to measure it, or to see its published numbers."""
    if model.images == "none":
        tables = sorted({row.partition("/")[0] for row in model.published_as}, key=int)
        return f"sbv2bench reproduce table{tables[0]} --plan" if tables else ""
    named = shlex.quote(model.location) if model.family == "local" else model.id
    if not here:
        return f"sbv2bench download {named}"
    suite = verifications.suite_for(model.family, registry)
    if suite is None:
        return f"sbv2bench eval --model {named}; with --suite {FIRST_LOOK} where its pictures are larger than 32 px"
    measured = f"sbv2bench eval --model {named} --suite {suite}"
    return f"{measured}; sbv2bench verify {named}" if model.has_network() else measured
