"""The result file, schema 2: a number must be explainable from it alone. migrations.py makes it of schema 1."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.specs import ModelSpec, fingerprint

SCHEMA_VERSION: Literal[2] = 2
_COUNT = re.compile(r"-\d+k(?![\w.])", re.IGNORECASE)


class Record(BaseModel):
    """Base of everything stored. Unknown keys are errors: a result file is never guessed at."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Record)


def stored(path: Path, what: str, make: str, again: str) -> Any:
    """What a stored JSON file holds. what: such a file is called. make, again: commands where there is none, or it is broken.

    Raises InputError (it cannot be read), IntegrityError (not JSON, a number that is none, a key written twice).
    """
    try:
        return json.loads(path.read_bytes(), parse_constant=_no_number, object_pairs_hook=_no_key_twice)
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror}", make) from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} {path}: found text that is not JSON ({error!s:.80})", again) from error


def _no_number(constant: str) -> None:
    """NaN and infinities, which Python's reader would take."""
    raise ValueError(f"{constant} is no number")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is written twice")
    return dict(pairs)


def validated(record: type[R], content: object, where: str, again: str | None = None) -> R:
    """The record of what a file holds. where: what errors begin with. Raises IntegrityError for the first thing that is wrong."""
    try:
        return record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise IntegrityError(f"{where}: {place}: {first['msg']}, found {first['input']!r:.80}", again) from error


def counted(label: str, n: int) -> str:
    """A label whose word for a count ("-30k") is that of the n images that were measured; before "@200" it has none.

    A number without a k is no count: "-256" may be a size, "-14" belongs to a network's name.
    """
    return _COUNT.sub("" if "@" in label else f"-{count_word(n)}", label)


def count_word(n: int) -> str:
    """A number of images as labels have it: 30000 is 30k, 48 is 48."""
    return f"{n // 1000}k" if n and n % 1000 == 0 else str(n)


class MetricValue(Record):
    """One number, and what is needed to read it. With repeats, value is their mean and `repeats` has each one.

    A metric's function gives its value, and what it knows of label, error, unit and details; a run fills in the others. each:
    what every caption scored [N], for comparisons caption by caption; it goes into a file beside the result. Whoever makes a
    value, and whatever a stored file says: a label that names a count names n_generated.
    """

    value: float
    ci95: tuple[float, float] | None = None
    std_err: float | None = Field(default=None, ge=0)
    uncertainty: str = "none"  # the method's name
    label: str = ""  # as people see it, with `-mini` where mini networks measured
    direction: Literal["lower", "higher"] = "higher"
    unit: str = ""
    n_generated: int = 0
    n_reference: int | None = None
    extractor: str | None = None
    fingerprint: str = ""  # of the metric as it was computed: the hash of provenance.protocols[fingerprint]
    # latency: milliseconds by stage; attributes: accuracy by attribute; with repeats: "one_run_std_err" and "one_run_method"
    details: dict[str, Any] | None = None
    prompt_values: str | None = None  # SHA-256 of `<result file's stem>.prompts.safetensors`, which has each caption's value
    repeats: tuple[float, ...] = ()
    styles: dict[str, dict[str, float]] | None = None  # {style: {"value", "std_err", "n", "group_deviation"}}
    each: object = Field(default=None, exclude=True, repr=False)

    @field_validator("ci95")
    @classmethod
    def _low_before_high(cls, ci95: tuple[float, float] | None) -> tuple[float, float] | None:
        if ci95 is not None and ci95[0] > ci95[1]:
            raise ValueError("the low end is above the high one")
        return ci95

    @field_validator("details")
    @classmethod
    def _as_compare_reads_them(cls, details: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, kind in (("one_run_std_err", int | float), ("one_run_method", str)):
            if details is not None and name in details and not isinstance(details[name], kind):
                raise ValueError(f"{name} is {details[name]!r}")
        return details

    @model_validator(mode="before")
    @classmethod
    def _label_of_what_was_measured(cls, fields: object) -> object:
        if not isinstance(fields, dict) or not isinstance(fields.get("label"), str):
            return fields
        n = fields.get("n_generated")
        return {**fields, "label": counted(fields["label"], n)} if isinstance(n, int) else fields


class ModelRecord(ModelSpec):
    """The whole ModelSpec as it was sampled, with its NFE."""

    nfe: int

    def spec(self) -> ModelSpec:
        """The ModelSpec alone."""
        return ModelSpec.model_validate(self.model_dump(exclude={"nfe"}))


class SuiteRecord(Record):
    """What was measured. reference: None where no metric read one, else its "fingerprint" (of the pixels, or of the files) and
    what is rendered, or the photographs' content."""

    id: str
    version: int
    prompts_sha256: str
    reference: dict[str, object] | None
    num_generated: int  # captions
    num_reference: int | None
    images_per_prompt: int = 1
    preparation: str | None = None
    seeds: tuple[int, ...]
    block_sizes: tuple[int, ...]


class Conditions(Record):
    """What a result was made under. dtype is part of a row's identity; versions are shown where they differ."""

    dtype: str | None
    device: str | None  # cpu, cuda or mps
    libraries: dict[str, str | None]


class ForwardPasses(Record):
    """Calls of the denoiser while one block was sampled, and the batch rows that one image took in all of them."""

    calls: int
    rows_an_image: float


class Passes(Record):
    """Forward passes as they are counted and kept: calls of the denoisers while a block was sampled, their batch rows in all,
    the distinct noise levels that were asked at (NFE), and the block's images."""

    calls: int = Field(ge=1)
    rows: int
    levels: int
    images: int = Field(ge=1)

    @property
    def rows_an_image(self) -> float:
        """Batch rows that one image took: a guidance pair is two, in one call or in two."""
        return self.rows / self.images

    def recorded(self) -> ForwardPasses:
        """As a result has them."""
        return ForwardPasses(calls=self.calls, rows_an_image=self.rows_an_image)

    @classmethod
    def of_manifest(cls, stored: object) -> Passes | None:
        """As a manifest has them; None where it has none, as one from before they were counted."""
        try:
            return None if stored is None else cls.model_validate(stored)
        except ValidationError:
            return None


class EvalResult(Record):
    """One (model, suite) outcome: the content of `<results>/<family>/<model>/<suite>@v<version>/<utc>-<fingerprint8>.json`.

    provenance has, beside what made the numbers, "suite" (the whole SuiteSpec) and "protocols" (by fingerprint, everything that
    can change a metric's numbers).
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    kind: Literal["eval"] = "eval"
    status: Literal["complete", "partial"]
    model: ModelRecord
    forward_passes: ForwardPasses | None = None  # None: not counted
    suite: SuiteRecord
    conditions: Conditions
    metrics: dict[str, MetricValue] = Field(min_length=1)
    resumed_images: int = 0
    seconds: dict[str, float] = Field(default_factory=dict)  # generate, features, metrics, total
    provenance: dict[str, Any] = Field(default_factory=dict)

    @field_validator("provenance")
    @classmethod
    def _parts_that_are_read(cls, provenance: dict[str, Any]) -> dict[str, Any]:
        for name in ("suite", "protocols", "cache", "own"):
            if not isinstance(provenance.get(name) or {}, dict):
                raise ValueError(f"{name} is {provenance[name]!r:.40}, expected a mapping")
        return provenance

    @model_validator(mode="after")
    def _counts_are_those_of_the_suite(self) -> EvalResult:
        images = {self.suite.num_generated, self.suite.num_generated * self.suite.images_per_prompt}
        for key, value in self.metrics.items():
            if value.extractor is not None and value.n_generated not in images:
                told = f"suite.num_generated is {self.suite.num_generated}"
                raise ValueError(f"metrics.{key}.n_generated is {value.n_generated}, {told}")
        return self

    def protocol(self, key: str) -> dict[str, Any]:
        """Everything that can change a metric's number, as it was; empty where the file does not say."""
        found = (self.provenance.get("protocols") or {}).get(self.metrics[key].fingerprint)
        return found if isinstance(found, dict) else {}

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the model as it was sampled and of all the metrics' fingerprints."""
        return fingerprint([self.model.fingerprint(), sorted({value.fingerprint for value in self.metrics.values()})])


class LatencyProtocol(Record):
    """How a clock was read. seconds: a repeat of a slow model stops beginning runs after so many; None runs every one.

    warm_up, runs: calls at the start of each repeat that are not timed, and that are. statistic: what stands for a repeat.
    """

    id: Literal["paper", "full"]
    version: int = 1
    warm_up: int = Field(ge=1)
    runs: int = Field(ge=1)
    repeats: int = Field(ge=2)
    seconds: float | None = None
    statistic: Literal["mean", "median"]

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of all of it."""
        return fingerprint(self.model_dump(mode="json"))


class Timing(Record):
    """Milliseconds of a call. value: the mean over the repeats of each one's statistic, with Student's interval over them."""

    value: float
    ci95: tuple[float, float] | None
    repeats: tuple[float, ...]
    median: float  # these three of all runs together
    p5: float
    p95: float


class Ceiling(Record):
    """The fastest that this device did bare matrix products and 3x3 convolutions, FLOP/s, in the dtype and threads of the run."""

    matmul: float
    conv: float

    @property
    def best(self) -> float:
        """FLOP/s of the faster of the two."""
        return max(self.matmul, self.conv)


class BatchLatency(Record):
    """One batch size. total: captions to uint8 pixels on the CPU. stages: by name; none where the sampler is not cut into any.

    flop: of a whole call, by stage, a multiply and an add counted as two. run_bytes: memory that a call takes at its worst
    beyond what lay there before. compile_s: the first compiled call; None where nothing was compiled.
    """

    batch_size: int = Field(ge=1)
    runs: int  # timed, in all repeats together
    total: Timing
    stages: dict[str, Timing]
    gap_ms: float  # median over runs of the whole less the sum of its stages
    images_per_second: float
    flop: dict[str, int]
    ceiling_share: float  # of the ceiling's best
    run_bytes: int | None
    compile_s: float | None


class LatencyResult(Record):
    """Speed of one model: the content of `<results>/<family>/<model>/latency-<protocol>/<utc>-<fingerprint8>.json`."""

    schema_version: Literal[2] = SCHEMA_VERSION
    kind: Literal["latency"] = "latency"
    protocol: LatencyProtocol
    protocol_fingerprint: str
    model: ModelRecord
    decoder: str  # class of its autoencoder, "" where the sampler does not say
    denoiser_calls: int  # forward passes for one image; a guided step counts two, where NFE counts one
    passes_counted: bool | None = None  # whether those were counted, or as declared; None: not said
    parameters: dict[str, int]  # by network
    weights_bytes: int | None
    device: str
    dtype: str
    threads: int
    compiled: tuple[str, ...]  # parts
    cuda_graphs: bool = False
    offload: Literal["none", "model", "sequential"] = "none"  # what of the model lay on the device at a time
    load_s: float  # from files to a model on the device, libraries imported before
    first_run_s: float  # the first call at the first batch size, not compiled
    ceiling: Ceiling
    memory_method: str
    prompts_sha256: str
    batches: tuple[BatchLatency, ...] = Field(min_length=1)
    interleaved_with: tuple[str, ...] = ()  # the other rows of the same run
    provenance: dict[str, Any] = Field(default_factory=dict)
