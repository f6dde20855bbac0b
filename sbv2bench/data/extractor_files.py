"""The files of extractors: found, safe to read, and hashed: those that are read and no others. No torch here."""

from __future__ import annotations

from pathlib import Path

from sbv2bench.data.assets import ALLOW_PICKLE, PICKLES, again, hash_weights, pickles_allowed, resolve_location
from sbv2bench.data.digests import file_digest
from sbv2bench.errors import IntegrityError, PrerequisiteError
from sbv2bench.specs import ExtractorSpec, WeightsFile

# Pickled state dicts that everybody has and that may be read, with weights_only, without SBV2BENCH_ALLOW_PICKLE.
WELL_KNOWN = {
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": "pt_inception-2015-12-05-6726825d.pth",
    "07cb0d20626232204ca3a6ec53ff5984e7e53212a8a7b0e0ec2bac1bdaf125a1": "HPS_v2_compressed.pt",
    "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837": "HPS_v2.1_compressed.pt",
    "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801": "clip-vit-large-patch14-336/pytorch_model.bin",
}
_WEIGHTS = PICKLES | {".safetensors"}


def locate(spec: ExtractorSpec) -> Path:
    """The folder or the file that an extractor's location names. Raises what `resolve_location` raises."""
    return resolve_location(spec.location, files=spec.files)


def weights_file(spec: ExtractorSpec) -> Path:
    """The one file of weights that an extractor reads: its location, or of `files` the first weights that are there.

    Raises PrerequisiteError where there is none, IntegrityError where it is a pickle that is not well known by its SHA-256,
    unless SBV2BENCH_ALLOW_PICKLE=1; before a pickle is fetched from the hub, too.
    """
    place = locate(spec)
    named = [name for name in spec.files if Path(name).suffix in _WEIGHTS]
    found = [place] if place.is_file() else [place / name for name in named if (place / name).is_file()]
    pickled = [name for name in named if Path(name).suffix in PICKLES]
    if not found and pickled and not pickles_allowed():
        raise IntegrityError(
            f"extractor {spec.id}: {place} has none of {', '.join(named)} that may be read; reading a pickle can run any code",
            f"{ALLOW_PICKLE}=1, if you trust the author of {pickled[0]}",
        )
    if not found:
        raise PrerequisiteError(f"extractor {spec.id}: {place} has none of {', '.join(named) or 'its weights'}")
    if found[0].suffix in PICKLES and not pickles_allowed() and file_digest(found[0]) not in WELL_KNOWN:
        raise IntegrityError(
            f"{found[0]}: found pickled weights that are not a well-known file; reading a pickle can run any code that is in it",
            f"convert it to safetensors, or set {ALLOW_PICKLE}=1 if you trust its author",
        )
    return found[0]


def with_weights(spec: ExtractorSpec) -> ExtractorSpec:
    """The spec with the hashes of every file that decides its features.

    Raises what `weights_file` and `hash_weights` raise, and IntegrityError where a named file is not there, or not what the spec
    says that it hashes to.
    """
    place = locate(spec)
    if place.is_dir() and not spec.files:
        hashes = hash_weights(place)
    else:
        read = [weights_file(spec)]
        if place.is_dir():
            read += [place / name for name in spec.files if Path(name).suffix not in _WEIGHTS]
        hashes = tuple(_hashed(path, spec) for path in sorted(read))
    if spec.tokenizer:
        hashes = (*hashes, _hashed(resolve_location(spec.tokenizer), spec))
    declared = {file.path: file.sha256 for file in spec.weights}
    for found in hashes:
        if declared.get(found.path, found.sha256) != found.sha256:
            raise IntegrityError(
                f"extractor {spec.id}: {found.path} is another file\n"
                f"found sha256 {found.sha256}, expected {declared[found.path]}",
                again(place, "copy or download the file again"),
            )
    return spec.model_copy(update={"weights": hashes})


def _hashed(path: Path, spec: ExtractorSpec) -> WeightsFile:
    if not path.is_file():
        raise IntegrityError(f"extractor {spec.id}: {path.parent} has no {path.name}", "copy or download the whole model")
    return WeightsFile(path=path.name, sha256=file_digest(path))
