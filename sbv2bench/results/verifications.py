"""Verifications: what a user's machine made of a model of the catalog, in one file that can be sent in. No torch here.

`sbv2bench verify` writes one; those in `leaderboards/verifications/` are counted, and what is said of a model by them ships in
the package as catalog/verifications.json, which `sbv2bench leaderboard` builds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, StringConstraints, TypeAdapter, model_validator

from sbv2bench.atomic import known_json
from sbv2bench.errors import IntegrityError
from sbv2bench.registry import FIRST_LOOK, Registry
from sbv2bench.results.records import Record, stored, validated
from sbv2bench.specs import ModelSpec, WeightsFile, fingerprint

FOLDER = "verifications"  # below the leaderboards'
SHIPPED = "verifications.json"  # in the package's catalog
IMAGES = 4  # captions whose pixels are kept
SIDE = 8  # of the reduced image that stands for one, by which images of two machines are compared
_MOST_BYTES = 1_000_000
_AGAIN = "sbv2bench verify MODEL, and send its file as it is"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Anybody's words, which end up in a terminal and on a page: one line, nothing that a terminal would obey.
Words = Annotated[
    str, StringConstraints(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$")
]
Name = Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9_][\w.+@-]*(/[A-Za-z0-9_][\w.+-]*)?$")]


class Pixels(Record):
    """One image. sha256: of its uint8 pixels [H, W, 3], row by row. reduced: SIDE x SIDE means of its channels, uint8, in hex."""

    caption: Words
    height: int = Field(ge=1, le=16384)
    width: int = Field(ge=1, le=16384)
    sha256: Sha256
    reduced: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{SIDE * SIDE * 3 * 2}}}$")]


class Score(Record):
    """One number. fingerprint: of the metric as it was computed."""

    label: Words
    value: FiniteFloat
    std_err: FiniteFloat | None = Field(default=None, ge=0)
    n_generated: int = Field(ge=1)
    fingerprint: Sha256


class Made(Record):
    """Under which conditions. card: the name of the GPU, or of the CPU."""

    card: Words
    device: Literal["cpu", "cuda", "mps"]
    dtype: Literal["float32", "float16", "bfloat16"]
    libraries: dict[Name, Name | None] = Field(max_length=20)
    sbv2bench: Name
    date_utc: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


class Sent(Record):
    """What is said of a model by one verification. settings: the fingerprint of the catalog's entry, without weights.

    pixels: of the suite's first captions, generation seed 0.
    """

    model: Name
    settings: Sha256
    suite: Name  # "first-look@v1"
    made: Made
    pixels: tuple[Pixels, ...] = Field(min_length=IMAGES, max_length=IMAGES)
    scores: dict[Name, Score] = Field(min_length=1, max_length=50)


class Verification(Sent):
    """The content of a file that a user sends in. fingerprint: of the model with its weights; sha256: of all the rest.

    protocols: by a score's fingerprint, everything that can change it.
    """

    schema_version: Literal[1] = 1
    kind: Literal["verification"] = "verification"
    fingerprint: Sha256
    weights: tuple[WeightsFile, ...] = Field(max_length=500)
    protocols: dict[Sha256, dict[str, Any]] = Field(max_length=50)
    sha256: str = ""

    @model_validator(mode="after")
    def _scores_of_their_protocols(self) -> Verification:
        for key, score in self.scores.items():
            protocol = self.protocols.get(score.fingerprint)
            if protocol is None or fingerprint(protocol) != score.fingerprint:
                raise ValueError(f"scores.{key}.fingerprint is of no protocol")
            if protocol.get("num_generated") != score.n_generated:
                raise ValueError(f"scores.{key}.n_generated is not that of its protocol")
        return self

    def signed(self) -> Verification:
        """The same with its hash."""
        return self.model_copy(update={"sha256": self.hash()})

    def hash(self) -> str:
        """SHA-256 (64 hex digits) of everything but the hash itself."""
        return fingerprint(self.model_dump(mode="json", exclude={"sha256"}))

    def sent(self) -> Sent:
        """What is counted of it."""
        return Sent.model_validate(self.model_dump(include=set(Sent.model_fields)))

    def fits(self, model: ModelSpec) -> bool:
        """Whether it is of a model's present settings. Raises IntegrityError where its weights are not those that it hashes."""
        if self.settings != model.fingerprint():
            return False
        if model.model_copy(update={"weights": self.weights}).fingerprint() != self.fingerprint:
            raise IntegrityError(
                f"verification of {self.model}: its fingerprint is not that of the model with its weights", _AGAIN
            )
        return True


def suite_for(family: str, registry: Registry) -> str | None:
    """The suite that a family's models are verified on; None for models that only their user has."""
    return {"mini": registry.default_suite("mini"), "full": FIRST_LOOK}.get(family)


def path_of(record: Verification) -> Path:
    """`<family>/<model>/<utc>-<sha8>.json`, relative to the verifications' folder."""
    return Path(*record.model.split("/"), f"{re.sub(r'[^0-9TZ]', '', record.made.date_utc)}-{record.sha256[:8]}.json")


def dumps(record: Verification) -> str:
    """The file's text."""
    return json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"


def is_one(path: Path) -> bool:
    """Whether a file says that it is a verification."""
    content = known_json(path)
    return isinstance(content, dict) and content.get("kind") == "verification"


def load(path: Path) -> Verification:
    """A verification's file, every key checked. Raises InputError where there is none, IntegrityError where it was edited."""
    if path.is_file() and (size := path.stat().st_size) > _MOST_BYTES:
        raise IntegrityError(f"verification {path}: found {size:,} bytes, expected at most {_MOST_BYTES:,}", _AGAIN)
    content = stored(path, "verification", "sbv2bench verify mini/sd21", _AGAIN)
    record = validated(Verification, content, f"verification {path}", _AGAIN)
    if record.sha256 != record.hash():
        raise IntegrityError(f"verification {path}: its sha256 is not that of its content, so the file was edited", _AGAIN)
    return record


def to_ship(records: Iterable[Verification]) -> str:
    """The text of the package's file, by model and date."""
    sent = sorted((record.sent() for record in records), key=lambda one: (one.model, one.made.date_utc, one.made.card))
    return json.dumps([one.model_dump(mode="json") for one in sent], indent=1, allow_nan=False) + "\n"


@cache
def shipped() -> tuple[Sent, ...]:
    """Everything that was sent in when this package was built."""
    return TypeAdapter(tuple[Sent, ...]).validate_json((files("sbv2bench.catalog") / SHIPPED).read_text("utf-8"))


def of_model(model: ModelSpec) -> tuple[Sent, ...]:
    """What was sent in of a model with its present settings; steps, guidance or another revision make another model."""
    return tuple(sent for sent in shipped() if sent.model == model.id and sent.settings == model.fingerprint())
