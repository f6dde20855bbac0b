"""What is evaluated and how, as frozen declarations. No torch here: a spec says, other rooms do.

What they have in common is in spec_base.py; those of downloads are in asset_spec.py, of models in model_spec.py, of extractors
and metrics in metric_spec.py.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sbv2bench.asset_spec import AssetSpec as AssetSpec  # noqa: PLC0414
from sbv2bench.metric_spec import ExtractorSpec as ExtractorSpec  # noqa: PLC0414
from sbv2bench.metric_spec import Family as Family  # noqa: PLC0414
from sbv2bench.metric_spec import MetricSpec as MetricSpec  # noqa: PLC0414
from sbv2bench.metric_spec import SuiteMetric as SuiteMetric  # noqa: PLC0414
from sbv2bench.metric_spec import WeightsFile as WeightsFile  # noqa: PLC0414
from sbv2bench.model_spec import IN_MEMORY as IN_MEMORY  # noqa: PLC0414
from sbv2bench.model_spec import AdapterSpec as AdapterSpec  # noqa: PLC0414
from sbv2bench.model_spec import Holds as Holds  # noqa: PLC0414
from sbv2bench.model_spec import Images as Images  # noqa: PLC0414
from sbv2bench.model_spec import MergeSpec as MergeSpec  # noqa: PLC0414
from sbv2bench.model_spec import ModelSpec as ModelSpec  # noqa: PLC0414
from sbv2bench.model_spec import PredictionType as PredictionType  # noqa: PLC0414
from sbv2bench.model_spec import SamplerSpec as SamplerSpec  # noqa: PLC0414
from sbv2bench.model_spec import TrainedWith as TrainedWith  # noqa: PLC0414
from sbv2bench.model_spec import TrainingPrompts as TrainingPrompts  # noqa: PLC0414
from sbv2bench.spec_base import NATIVE, Preparation
from sbv2bench.spec_base import Spec as Spec  # noqa: PLC0414  # all are taken from here
from sbv2bench.spec_base import fingerprint as fingerprint  # noqa: PLC0414


class PromptSpec(Spec):
    """Where captions come from.

    world: `num_generated` captions of the mini world from `caption_offset` of a split. coco2014: the first `num_generated`
    of a list in a file (the released evaluation's dataset.json, COCO's annotations, Karpathy's split, a list of strings or the
    archive of DMD2). hpsv2: a folder with one list for each of the four styles. geneval, dpg, mjhq: the first `num_generated`
    of the benchmark's own file. file: captions of anybody's, or files and their captions.
    none: images without captions, for metrics that read none.
    location: of that file or folder, `asset:NAME` or a path.
    captions_sha256: what the captions joined with newlines hash to; None takes what is found, and the result says so.
    """

    remarks = frozenset({"location"})

    kind: Literal["world", "coco2014", "hpsv2", "geneval", "dpg", "mjhq", "file", "none"] = "world"
    world_seed: int = 0
    split: Literal["training", "choosing", "reporting"] = "reporting"
    caption_offset: int = Field(default=0, ge=0)
    location: str = ""
    captions_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _fields_of_its_kind(self) -> PromptSpec:
        of_the_world = {"world_seed", "split", "caption_offset"}
        foreign = {"location", "captions_sha256"} if self.kind == "world" else of_the_world
        for name in sorted(foreign):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"prompts of kind {self.kind} have no {name}")
        if (self.kind not in ("world", "none")) != bool(self.location):
            raise ValueError(f"prompts of kind {self.kind} {'have no' if self.location else 'need a'} location")
        return self

    def protocol(self) -> dict[str, object]:
        """The fields of its kind that can change a number."""
        if self.kind == "world":
            return self.model_dump(mode="json", include={"kind", "world_seed", "split", "caption_offset"})
        return self.model_dump(mode="json", include={"kind"} if self.kind == "none" else {"kind", "captions_sha256"})


class ReferenceSpec(Spec):
    """Real photographs: every image in a zip or a folder. location: `asset:NAME` or a path.

    content_sha256: what `ImageArchive.content_sha256` must give; None takes what is found, and the result says so.
    orientation: exif turns each picture as its EXIF orientation says, stored takes the pixels as they lie in the file. None
    is stored for a declared download, whose numbers were published so, and exif for a path, a user's own photographs.
    """

    remarks = frozenset({"location"})
    later = frozenset({"orientation"})

    location: str
    content_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    orientation: Literal["stored", "exif"] | None = None

    @property
    def is_turned(self) -> bool:
        """Whether pictures are turned as their EXIF orientation says."""
        return self.orientation == "exif" or (self.orientation is None and not self.location.startswith("asset:"))

    def protocol(self) -> dict[str, object]:
        """The fields that can change a number, the orientation where pictures are turned."""
        fields = self.model_dump(mode="json", include={"content_sha256"})
        return fields | ({"orientation": "exif"} if self.is_turned else {})


class SuiteSpec(Spec):
    """Prompts, reference and metrics under a version. `extends` is resolved when a catalog is read.

    metrics: ids, or a mapping of ids to what this suite changes of each. reference: None is fresh renderings of the world, of
    the captions `rendered` where the prompts are others. preparation: what is done to every image, generated or real, before a
    network sees it (but for extractors that say another); None, written `native`, is nothing. images_per_prompt: how many of
    each caption are made where a run does not say. label_suffix: after every metric's name; a count in it ("-30k") becomes that
    of the images that were measured, so write a size as "-256px". inherited: what a catalog or `own` took from another suite,
    in words.
    """

    remarks = frozenset({"description", "inherited"})
    later = frozenset({"images_per_prompt"})

    id: str
    version: int = 1
    family: Family
    prompts: PromptSpec
    num_generated: int = Field(ge=2)
    num_reference: int = Field(ge=0)
    metrics: tuple[SuiteMetric, ...]
    block_size: int = Field(default=50, ge=1)
    label_suffix: str = ""  # "-mini" for everything measured by mini networks
    description: str = ""
    reference: ReferenceSpec | None = None
    preparation: Preparation | None = None
    images_per_prompt: int = Field(default=1, ge=1)
    rendered: PromptSpec | None = None
    inherited: str = ""
    look: int = Field(default=0, ge=0)  # a suite to look at: images in the grid beside its results, which no board takes

    @field_validator("preparation")
    @classmethod
    def _native_is_none(cls, found: str | None) -> str | None:
        return None if found == NATIVE else found

    @field_validator("metrics", mode="before")
    @classmethod
    def by_name(cls, found: object) -> object:
        """Metrics as they may be written, ids or a mapping of ids to changes, as a list of mappings; else as it was found."""
        if isinstance(found, dict):
            found = [{"id": name, **changes} if isinstance(changes, dict) else {"id": name} for name, changes in found.items()]
        return [{"id": one} if isinstance(one, str) else one for one in found] if isinstance(found, list | tuple) else found

    @property
    def flags(self) -> tuple[str, ...]:
        """The ids of the metrics that it computes by default."""
        return tuple(metric.id for metric in self.metrics if not metric.on_request)

    def changed(self, metric: MetricSpec) -> MetricSpec:
        """A metric as this suite has it: with what it changes, if it names the metric."""
        own = next((one for one in self.metrics if one.id == metric.id), None)
        return metric if own is None else own.of(metric)

    def names_extractor(self, flag: str) -> bool:
        """Whether the suite itself says by which extractor a metric is computed."""
        return any(one.id == flag and one.extractor is not None for one in self.metrics)

    def preparation_for(self, extractor: ExtractorSpec) -> str | None:
        """What is done to images before an extractor sees them; None is nothing."""
        return self._native_is_none(extractor.shown or self.preparation)

    def protocol(self) -> dict[str, object]:
        """The fields that can change a number."""
        fields = super().protocol() | {"prompts": self.prompts.protocol()}
        fields["reference"] = None if self.reference is None else self.reference.protocol()
        fields["rendered"] = None if self.rendered is None else self.rendered.protocol()
        return fields

    def reference_protocol(self, sha256: str | None) -> dict[str, object]:
        """What its reference is: photographs by the SHA-256 of their content, or the captions that are rendered."""
        if self.reference is None:
            return {"rendered": (self.rendered or self.prompts).protocol()}
        return self.reference.protocol() | {"content_sha256": sha256}

    def metric_protocol(
        self,
        metric: MetricSpec,
        extractor: ExtractorSpec | None,
        prompts_sha256: str,
        reference_sha256: str | None = None,
        images_per_prompt: int = 1,
    ) -> dict[str, object]:
        """Everything that can change a metric's numbers on this suite, JSON-ready; its hash is the metric's fingerprint.

        extractor: with its weights' hashes. reference_sha256: of the content of photographs. images_per_prompt: of the run; a
        metric of one image a caption reads the first. Labels and the metric's target are not in it.
        """
        compared = metric.reference == "suite"
        return {
            "metric": {"id": metric.id, "version": metric.version, "parameters": metric.parameters},
            "extractor": None if extractor is None else extractor.protocol(),
            "preparation": None if extractor is None else self.preparation_for(extractor),
            "prompts_sha256": prompts_sha256,
            "num_generated": self.num_generated,
            "images_per_prompt": images_per_prompt if metric.images_per_prompt > 1 else 1,
            "reference": self.reference_protocol(reference_sha256) if compared else None,
            "num_reference": self.num_reference if compared else None,
        }


class GroupSpec(Spec):
    """Suites that are evaluated together and make one leaderboard row, joined on the model's fingerprint.

    latency: the protocol of the command `latency` whose result, where there is one, belongs to the row too.
    """

    remarks = frozenset({"description"})
    later: ClassVar[frozenset[str]] = frozenset({"latency"})

    id: str
    version: int = 1
    family: Family
    suites: tuple[str, ...] = Field(min_length=1)
    latency: Literal["paper", "full"] | None = None
    description: str = ""
