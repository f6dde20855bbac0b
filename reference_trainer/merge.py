"""Two one-step models' weights interpolated into one (SwiftBrush v2, equation 6), written as a folder that diffusers loads.

LoRA students are folded in float32 into the model that they started from before they are interpolated; the arithmetic is
sbv2bench.weights', as for the catalog's merged models, so a folder written here and a MergeSpec make the same images.
"""

from __future__ import annotations

import errno
import json
import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from reference_trainer.origins import licences
from sbv2bench import __version__, provenance
from sbv2bench.atomic import whole_folder
from sbv2bench.data.chain import model_files
from sbv2bench.data.training import trained_with, united
from sbv2bench.diffusion import Schedule
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry, only_published
from sbv2bench.samplers.components import load_components
from sbv2bench.samplers.loading import quiet
from sbv2bench.samplers.networks import StoredModel
from sbv2bench.samplers.one_step import OneStepSampler, levels
from sbv2bench.samplers.shared_parts import check_shared_parts
from sbv2bench.specs import MergeSpec, ModelSpec, PredictionType, SuiteSpec, TrainedWith, WeightsFile
from sbv2bench.weights import check_finite, first_not_finite

SPEC, RECORD = "sbv2bench.json", "merge.json"
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG}


@dataclass(frozen=True)
class End:
    """One of the two models that are merged. name: what a MergeSpec calls it.

    timestep, alpha_T, prediction_type: how its student is asked, the schedule's alpha where the spec has none.
    trained_with: what trained it, where it is known.
    shared_parts: folders of what both ends must have in common (`networks.StoredModel.shared_parts`).
    """

    name: str
    spec: ModelSpec
    weights: tuple[WeightsFile, ...]
    timestep: int
    alpha_T: float
    prediction_type: PredictionType
    trained_with: TrainedWith | None
    shared_parts: dict[str, Path]

    def record(self) -> dict[str, object]:
        """What merge.json and sweep.json say of it."""
        files = {file.path: file.sha256 for file in self.weights}
        return {"id": self.spec.id, "location": self.spec.location, "weights": files}


def merge(a: str, b: str, weight: float, output: Path, registry: Registry | None = None, *, half: bool = False) -> ModelSpec:
    """Write weight A + (1 - weight) B to a new folder, whole or not at all; returns what its sbv2bench.json says.

    a, b: model ids or folders. At weight 1 the UNet is a bitwise copy of A's in float32, at 0 of B's; everything but the
    UNet is A's. half: files of float16. Stock diffusers makes the model's images of the folder with num_inference_steps=1
    and guidance_scale=1. Raises InputError (names, weight, output, ends that are asked differently), PrerequisiteError
    (files missing), IntegrityError (networks that are not alike, weights that are not finite or overflow, a full disk).
    """
    check_weight(weight)
    registry = registry or Registry.load()
    ends = find_ends(a, b, registry)
    spec = merged_spec(*ends, weight)
    command = ["python", "-m", "reference_trainer", "merge", a, b, "--weight", str(weight), "--output", str(output)]
    record = _record(ends, weight, half=half)
    if (there := _written_before(output, record)) is not None:
        return there
    with _new_folder(output) as folder:
        sampler = OneStepSampler.of(spec, load_components(spec, "cpu", torch.float32, registry))
        pipeline = sampler.pipeline()
        for part, network in sampler.networks().items():
            check_finite(network.state_dict(), f"the merged model's {part}")
            if half:
                _make_half(network, part, shlex.join(command))
        for network in (pipeline.unet, pipeline.vae):
            network.register_to_config(_name_or_path="")  # else the path on this machine is written into its config
        with quiet():
            pipeline.save_pretrained(folder)
        written = spec.model_copy(update={"merge": None})  # it is no longer made on load
        if levels(written, Schedule.from_config(pipeline.scheduler.config), ends[0].prediction_type)[0] != sampler.alpha_T:
            written = written.model_copy(update={"alpha_T": sampler.alpha_T})  # to the last bit, whatever a schedule rounds
        (folder / SPEC).write_text(written.model_dump_json(indent=1, exclude_defaults=True) + "\n")
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return written


def _record(ends: tuple[End, End], weight: float, *, half: bool) -> dict[str, object]:
    """How a folder came to be: what merge.json says."""
    versions = {name: provenance.library_version(package) for name, package in provenance.LIBRARIES.items()}
    return {
        "formula": "weight * a + (1 - weight) * b",
        "weight": weight,
        "a": ends[0].record(),
        "b": ends[1].record(),
        "dtype": "float16" if half else "float32",
        "versions": {"sbv2bench": __version__, **versions},
    }


def _written_before(output: Path, record: dict[str, object]) -> ModelSpec | None:
    """What the folder is, where it is the very merge that is asked for: a run that was killed at its end, and is run again."""
    try:
        if json.loads((output / RECORD).read_text("utf-8")) != record:
            return None
        return ModelSpec.model_validate_json((output / SPEC).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _make_half(network: torch.nn.Module, part: str, instead: str) -> None:
    """Round a network to float16. Raises IntegrityError, naming the first tensor, where a number is too large for it.

    instead: the command that writes float32.
    """
    with quiet():
        network.half()
    key = first_not_finite(network.state_dict())
    if key is not None:
        raise IntegrityError(
            f"merge --half: {key} of the merged model's {part} overflows float16, expected numbers up to 65,504",
            instead,
        )


def check_weight(weight: float) -> None:
    """Raises InputError unless 0 <= weight <= 1."""
    if not 0.0 <= weight <= 1.0:
        raise InputError(f"--weight: found {weight}, expected a number from 0 (all B) to 1 (all A)")


def find_ends(a: str, b: str, registry: Registry, suite: SuiteSpec | None = None) -> tuple[End, End]:
    """Both ends with every file proved. suite: what they are to be measured on, whose family bare names take.

    Raises what finding raises, and InputError where they are not asked at the same timestep, with the same alpha_T, for the
    same prediction: their average would be asked wrongly for one of them. IntegrityError where their autoencoders or text
    encoders differ.
    """
    ends = _end(a, registry, suite), _end(b, registry, suite)
    for what, equal in (
        ("timestep", ends[0].timestep == ends[1].timestep),
        ("alpha_T", math.isclose(ends[0].alpha_T, ends[1].alpha_T, rel_tol=1e-9)),
        ("prediction_type", ends[0].prediction_type == ends[1].prediction_type),
    ):
        if not equal:
            found = " and ".join(f"{getattr(end, what)} of {end.name}" for end in ends)
            raise InputError(f"merge: found {what} {found}, expected one that both were trained for")
    check_shared_parts(ends[0].name, ends[0].shared_parts, ends[1].name, ends[1].shared_parts)
    return ends


def _end(name: str, registry: Registry, suite: SuiteSpec | None) -> End:
    spec = registry.model(name, suite)
    if spec.images == "none":
        raise only_published(spec)
    if not (spec.location or spec.merge) or not spec.has_network():
        raise InputError(f"merge: {spec.id} ({spec.sampler}) has no network of its own, expected a one-step model")
    if spec.network_evaluations() > 1 and registry.models.get(spec.id) is spec:
        raise InputError(f"merge: {spec.id} is sampled in {spec.steps} steps, expected a one-step model", "sbv2bench list models")
    stored = StoredModel.find(spec, registry)
    scheduler = stored.scheduler()
    prediction_type = stored.prediction_type(scheduler)
    alpha, _ = levels(spec, Schedule.from_config(scheduler.config), prediction_type)
    known = registry.models.get(spec.id) is spec
    return End(
        name=spec.id if known else name,
        spec=spec,
        weights=model_files(spec, lambda end: registry.model(end, suite)),
        timestep=spec.timestep,
        alpha_T=alpha,
        prediction_type=prediction_type,
        trained_with=trained_with(spec, lambda end: registry.model(end, suite)),
        shared_parts=stored.shared_parts(),
    )


def merged_spec(a: End, b: End, weight: float) -> ModelSpec:
    """The model that is merged on load: sampled as A is, in one step without guidance."""
    family = a.spec.family if a.spec.family == b.spec.family else "local"
    short = [end.spec.id.rpartition("/")[2] for end in (a, b)]
    return ModelSpec(
        id=f"{family}/{short[0]}+{short[1]}-{weight!r}",
        family=family,
        sampler="one_step",
        merge=MergeSpec(a=a.name, b=b.name, weight=weight),
        steps=1,
        timestep=a.timestep,
        alpha_T=a.spec.alpha_T,
        prediction_type=a.prediction_type,
        resolution=a.spec.resolution,
        description=f"{weight!r} x {a.spec.id} + {1 - weight:.6g} x {b.spec.id}",
        origin="merged by reference_trainer",
        licence=licences(end.spec for end in (a, b)),
        trained_with=united(end.trained_with for end in (a, b)),
    )


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A folder beside output that takes its place when the block is done; on an error nothing is left.

    Raises InputError where output is not free or cannot be written, IntegrityError where the disk is full.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {output}: exists already, expected a new or an empty folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(output) as part:
            yield part
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno in _FORBIDDEN:
            raise InputError(f"--output {output}: cannot be written ({error.strerror})") from error
        raise IntegrityError(
            f"--output {output}: cannot be written whole ({error})", "free some space, and merge again"
        ) from error
