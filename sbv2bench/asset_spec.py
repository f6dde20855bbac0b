"""What a download must be: where it is had, and what it must hash to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sbv2bench.spec_base import Spec


class AssetSpec(Spec):
    """A file from the network, or files of one hub repository at a pinned revision, by what they must hash to.

    urls: where the one file `filename` is, best first. Or hub: "org/name" with files, their paths in the repository.
    sha256, md5: 64 or 32 hex digits of the one file; md5 only where nobody has published more. licence: whose terms hold.
    """

    remarks = frozenset({"description", "licence", "urls"})

    id: str
    filename: str = ""
    urls: tuple[str, ...] = ()
    hub: str = ""
    hub_type: Literal["model", "dataset"] = "model"
    revision: str | None = None
    files: tuple[str, ...] = ()
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    md5: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")
    bytes: int | None = Field(default=None, ge=0)
    licence: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> AssetSpec:
        if bool(self.hub) != bool(self.files):
            raise ValueError("hub and files go together")
        if not self.hub and not (self.filename and (self.sha256 or self.md5)):
            raise ValueError("expected filename with sha256 or md5, or hub with files")
        if self.filename != self.filename.replace("\\", "/").rpartition("/")[2] or self.filename.startswith("."):
            raise ValueError("filename must be a plain name")
        if len(self.files) != 1 and (self.sha256 or self.md5) and self.hub:
            raise ValueError("a hash is of one file")
        return self
