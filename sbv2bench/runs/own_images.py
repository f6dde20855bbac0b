"""Images that somebody else made, for a suite's captions or their own, against a suite's reference or their own."""

from __future__ import annotations

from pathlib import Path

from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.caption_files import captions_sha256
from sbv2bench.data.images import ImageFolder
from sbv2bench.data.own_captions import read_own_captions
from sbv2bench.registry import Registry
from sbv2bench.specs import PromptSpec, ReferenceSpec, SuiteSpec


def own_suite(images: Path, base: str, prompts: Path | None, reference: Path | None, registry: Registry) -> SuiteSpec:
    """The suite to score images with: the base itself, or the base with captions or photographs of the user's.

    prompts: a file as `read_own_captions` takes it, a caption for each image. reference: a folder or zip of photographs, which
    are cropped and reduced to 256 px as the paper's are. A changed suite is registered under an id of its own; metrics that
    need what only the base's captions say are left out. Raises what reading them raises.
    """
    suite = registry.suite(base)
    if prompts is None and reference is None:
        return suite
    changes: dict[str, object] = {"id": f"{suite.id}.own", "description": f"{suite.id} with captions or photographs of one's own"}
    if prompts is not None:
        own = read_own_captions(prompts)
        own.require_images(prompts, [file.name for file in ImageFolder(images).files])
        told = {flag for flag in suite.metrics if "attributes" in registry.metric(flag).needs}
        changes |= {
            "prompts": PromptSpec(kind="file", location=str(prompts.absolute()), captions_sha256=captions_sha256(own.captions)),
            "num_generated": len(own.captions),
            "metrics": tuple(flag for flag in suite.metrics if flag not in told),
        }
    if reference is not None:
        photographs = ImageArchive(reference)
        changes |= {
            "reference": ReferenceSpec(location=str(reference.absolute()), content_sha256=photographs.content_sha256()),
            "num_reference": len(photographs.names),
            "preparation": "centre-crop-lanczos-256",
        }
    changed = suite.model_copy(update=changes)
    registry.add("suite", changed, replaces=True)
    return changed
