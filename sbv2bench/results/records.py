"""The result file: a number must be explainable from it alone (design 1.1). Schema 1."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sbv2bench.specs import ModelSpec

SCHEMA_VERSION: Literal[1] = 1


class Record(BaseModel):
    """Base of everything stored. Unknown keys are errors: a result file is never guessed at."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricValue(Record):
    """One number, and what is needed to read it. With repeats, value is their mean and `repeats` has each one."""

    value: float
    ci95: tuple[float, float] | None = None
    std_err: float | None = None
    uncertainty: str = "none"  # the method's name
    label: str  # as people see it, with `-mini` where mini networks measured
    direction: Literal["lower", "higher"]
    unit: str = ""
    n_generated: int
    n_reference: int | None = None
    extractor: str | None = None
    repeats: tuple[float, ...] = ()
    styles: dict[str, dict[str, float]] | None = None  # HPS: {style: {"value", "std_err", "n", "group_deviation"}}
    # latency: milliseconds by stage; attributes: accuracy by attribute; with repeats: "one_run_std_err" and "one_run_method"
    details: dict[str, Any] | None = None


class ModelRecord(ModelSpec):
    """The whole ModelSpec as it was sampled, with its NFE."""

    nfe: int


class SuiteRecord(Record):
    id: str
    version: int
    fingerprint: str
    prompts_sha256: str
    reference_fingerprint: str | None
    num_generated: int
    num_reference: int | None
    seeds: tuple[int, ...]
    block_size: int
    protocol: dict[str, Any]  # everything that the fingerprint hashes


class PromptValues(Record):
    """What each caption scored, kept in `<result file's stem>.prompts.safetensors`: for comparisons caption by caption."""

    sha256: str
    metrics: tuple[str, ...]  # the keys that it has


class EvalResult(Record):
    """One (model, suite) outcome: the content of `<results>/<family>/<model>/<suite>@v<version>/<utc>-<fingerprint8>.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    status: Literal["complete", "partial"]
    model: ModelRecord
    suite: SuiteRecord
    metrics: dict[str, MetricValue]
    prompt_values: PromptValues | None = None
    resumed_images: int = 0
    seconds: dict[str, float] = Field(default_factory=dict)  # generate, features, metrics, total
    provenance: dict[str, Any] = Field(default_factory=dict)
