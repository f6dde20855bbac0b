"""What every declaration is: immutable, without unknown keys, with a fingerprint of what can change a number."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

NATIVE = "native"  # images as they are


def _preparation(named: object) -> object:
    """A preparation's one name. `centre-512` is short for `centre-crop-lanczos-512`."""
    found = re.fullmatch(r"centre-(?:crop-lanczos-)?([1-9]\d{0,3})", str(named))
    if found is None and named not in (NATIVE, None):
        raise ValueError(f"expected {NATIVE}, or centre-N: the central square, resized by Lanczos to N px")
    return named if found is None else f"centre-crop-lanczos-{found[1]}"


# What is done to an image before a network sees it: its central square resized to a side, or nothing.
Preparation = Annotated[str, BeforeValidator(_preparation)]


class Spec(BaseModel):
    """Base of all declarations: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    remarks: ClassVar[frozenset[str]] = frozenset()  # fields that cannot change a number
    later: ClassVar[frozenset[str]] = frozenset()  # fields newer than stored results: not in the fingerprint at their default

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the canonical JSON of every field that can change a number."""
        return fingerprint(self.protocol())

    def protocol(self) -> dict[str, object]:
        """The fields that can change a number, JSON-ready."""
        fields = type(self).model_fields
        unsaid = {name for name in self.later if getattr(self, name) == fields[name].default}
        return self.model_dump(mode="json", exclude={*self.remarks, *unsaid})


def fingerprint(value: object) -> str:
    """SHA-256 (64 hex digits) of a JSON-ready value, keys sorted, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()
