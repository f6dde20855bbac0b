"""Photographs of a fixed seed, in folders and archives."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def photograph(seed: int, width: int = 64, height: int = 48, mode: str = "RGB", form: str = "JPEG") -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(out, form)
    return out.getvalue()


def photographs(count: int = 7) -> dict[str, bytes]:
    """Of several sizes, the third one grey."""
    return {f"COCO_val2014_{i:012d}.jpg": photograph(i, 64 + 3 * i, 48 + i % 3, "L" if i == 2 else "RGB") for i in range(count)}


def write_zip(path: Path, files: dict[str, bytes], inside: str = "val2014/") -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for name, content in reversed(files.items()):  # an archive's own order must not matter
            target.writestr(f"{inside}{name}", content)
        target.writestr(f"__MACOSX/{inside}._{next(iter(files))}", b"x")
        target.writestr(f"{inside}README.txt", b"read me")
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w", inside: str = "./val2014/") -> Path:
    with tarfile.open(path, mode) as target:  # type: ignore[call-overload]
        for name, content in reversed(files.items()):
            member = tarfile.TarInfo(f"{inside}{name}")
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return path
