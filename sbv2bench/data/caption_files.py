"""Captions that lie in files: the released evaluation's list, COCO's annotations, Karpathy's split, DMD2's, HPSv2's prompts.

Text is kept as it is, spaces and newlines too: 5,802 of the 40,504 captions have some at an end.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from sbv2bench.data.caption_rows import checked, json_document
from sbv2bench.errors import InputError, IntegrityError

STYLES = ("anime", "concept-art", "paintings", "photo")  # in the order of HPSv2's benchmark
_EXPECTED = "dataset.json ('labels'), captions_val2014.json ('annotations'), dataset_coco.json ('sentences') or a list of strings"
_OF_DMD2 = "all_prompts.pkl"  # in the archive of its 10,000 photographs


def captions_sha256(captions: Iterable[str]) -> str:
    """SHA-256 (64 hex digits) of raw captions joined with newlines, UTF-8."""
    return hashlib.sha256("\n".join(captions).encode()).hexdigest()


def read_captions(path: Path, count: int, sha256: str | None) -> tuple[str, ...]:
    """The first `count` captions of a list in a file of any of the five forms, checked by their hash.

    COCO's annotations can be read in more than one order; the one that has the hash is taken. Raises InputError (no file, no
    such form), IntegrityError (not JSON, too few captions, another hash).
    """
    found: list[str] = []
    for found in _orders(path):
        if len(found) >= count and (sha256 is None or captions_sha256(found[:count]) == sha256):
            return tuple(found[:count])
    if len(found) < count:
        raise IntegrityError(f"{path}: found {len(found):,} captions, expected at least {count:,}")
    raise IntegrityError(
        f"{path}: its first {count:,} captions are not the suite's\n"
        f"found sha256 {captions_sha256(found[:count])[:16]}, expected {str(sha256)[:16]}",
        "use the list that the suite names: captions in another order or of another choice are another benchmark",
    )


def all_captions(path: Path) -> list[list[str]]:
    """Every caption of a file, in each order that its form allows. Raises as `read_captions`."""
    return list(_orders(path))


def read_styles(folder: Path, count: int, sha256: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(prompts, the style of each): the four styles one after another, `count` in all and as many of each.

    folder: has anime.json, concept-art.json, paintings.json and photo.json, itself, in `benchmark/`, or named
    benchmark_<style>.json. Raises InputError (a list is not there), IntegrityError (not lists of strings, other numbers or hash).
    """
    if count % len(STYLES):
        raise InputError(f"prompts of kind hpsv2: found num_generated {count}, expected a multiple of {len(STYLES)}")
    each = count // len(STYLES)
    prompts: list[str] = []
    for style in STYLES:
        choices = (folder / "benchmark" / f"{style}.json", folder / f"{style}.json", folder / f"benchmark_{style}.json")
        path = next((choice for choice in choices if choice.is_file()), None)
        if path is None:
            raise InputError(f"{folder}: found no prompts of style {style}, expected {style}.json")
        own = _strings(json_document(path), path)
        if len(own) != each:
            raise IntegrityError(f"{path}: found {len(own):,} prompts, expected {each:,}")
        prompts += own
    if sha256 is not None and captions_sha256(prompts) != sha256:
        raise IntegrityError(
            f"{folder}: its prompts are not the suite's\nfound sha256 {captions_sha256(prompts)[:16]}, expected {sha256[:16]}"
        )
    return tuple(prompts), tuple(style for style in STYLES for _ in range(each))


def released_form(captions: list[str]) -> bytes:
    """The bytes of the released evaluation's dataset.json with these captions: numbered PNG paths, a thousand in a folder."""
    labels = [[f"{number // 1000:05d}/img{number:08d}.png", caption] for number, caption in enumerate(captions)]
    return (json.dumps({"labels": labels}) + "\n").encode()


def _strings(content: object, path: Path) -> list[str]:
    if not isinstance(content, list) or not all(isinstance(caption, str) for caption in content):
        raise IntegrityError(f"{path}: found {type(content).__name__}, expected a list of strings")
    return list(checked(enumerate(content, 1), str(path), "row")) if content else content


class _Strings(pickle.Unpickler):
    """Reads a pickle of plain lists and texts; nothing that it names is imported, so that no code of it can run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Raises UnpicklingError."""
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _of_dmd2(path: Path) -> list[str]:
    """The list of strings that lies pickled beside the photographs. Raises InputError, IntegrityError."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if PurePosixPath(name).name == _OF_DMD2]
            if len(names) != 1:
                raise InputError(f"{path}: found {len(names)} files {_OF_DMD2}, expected one")
            return _strings(_Strings(io.BytesIO(archive.read(names[0]))).load(), path)
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise IntegrityError(f"{path}: {_OF_DMD2} is no pickled list of strings ({error})", "download it again") from error
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise IntegrityError(f"{path}: found an archive that is cut or broken ({error})", "download it again") from error


def _orders(path: Path) -> Iterator[list[str]]:
    if path.suffix == ".zip":
        yield _of_dmd2(path)
        return
    content: Any = json_document(path)  # of whatever form: what is not as expected raises, and is said below
    try:
        if isinstance(content, list):
            yield _strings(content, path)
        elif "labels" in content:
            yield _strings([caption for _, caption in content["labels"]], path)
        elif "annotations" in content:
            yield from (_strings(captions, path) for captions in _of_coco(content))
        elif "images" in content:
            yield _strings([image["sentences"][0]["raw"] for image in content["images"] if "val2014" in image["filename"]], path)
        else:
            raise InputError(f"{path}: found {', '.join(map(str, list(content)[:4])) or 'nothing'}, expected {_EXPECTED}")
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: no list of captions ({error!r:.80}), expected {_EXPECTED}") from error


def _of_coco(content: dict[str, Any]) -> Iterator[list[str]]:
    """One caption an image in the file's order of images: the first annotation in the file, and the one of the lowest id."""
    by_image: dict[object, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    every = [by_image[image["id"]] for image in content["images"]]
    yield [own[0]["caption"] for own in every]
    yield [min(own, key=lambda annotation: annotation["id"])["caption"] for own in every]
