"""Pictures in folders and archives: the one rule for what counts, in which order, and what is refused by name.

A file that begins as a picture does either counts or stops the run; nothing is left out without a word. Only what lies in a
hidden folder (.git, .thumbnails, __MACOSX) is left out: it is another program's.
"""

from __future__ import annotations

import os
import re
import shlex
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sbv2bench.errors import InputError, IntegrityError

# What is read: stills of eight bits a channel, whichever way the suffix is written.
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm"}
)
# Pictures too, which are refused by name: no decoder at hand, several pictures in one, or no pixels before a program draws them.
OTHERS = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx", ".jpf", ".svg", ".psd", ".xcf", ".exr", ".hdr", ".tga", ".ico"}
    | {".qoi", ".apng", ".avifs", ".mpo", ".pcx", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".pef", ".eps"}
)
MODES = frozenset({"RGB", "L", "1", "P", "RGBA", "LA", "PA"})  # eight bits a channel at most, so RGB loses nothing
_LOOKED_AT = 100_000  # files, at most, of a folder that may be a whole disk
HEAD = 16  # bytes by which a picture is known
REMOVE = "remove it from the folder, or write it again"
_BEGINNINGS = (
    *(b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"8BPS"),
    *(b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  "),
)
_ISO_PICTURES = (b"ftypavi", b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf")  # after four bytes of length
# What PIL raises over files that are broken or cut.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError, struct.error),
    Image.DecompressionBombError,
)
_ORIENTATION, _UPRIGHT, _ON_ITS_SIDE = 0x0112, 1, frozenset({5, 6, 7, 8})


class ImageFolder:
    """The pictures in a folder and below it, of one size, in natural order of their names: 2.png before 10.png.

    A picture is turned as its EXIF orientation says. files: in that order. size: (width, height) of all of them once turned;
    of the first where they need not be alike. turned: names of those whose orientation is another than upright.
    """

    def __init__(self, path: Path, *, one_size: bool = True) -> None:
        """Reads every header. one_size: whether all must have the size of the first.

        Raises InputError (no folder, no pictures, pictures of a kind that is not read), IntegrityError (broken, a link to
        nothing, a name twice, another size, pixels that are not eight bits of colour or grey).
        """
        if not path.is_dir():
            found = "a file" if path.is_file() else "nothing"
            raise InputError(f"image folder: {path} is {found}, expected a folder of images")
        self.path, self.one_size = path, one_size
        self.files = tuple(path / name for name in pictures_below(path, "image folder"))
        headers = [_header(file) for file in self.files]
        self.size = headers[0][0]
        self.turned = tuple(file.name for file, (_, orientation) in zip(self.files, headers, strict=True) if orientation != 1)
        for file, (size, _) in zip(self.files, headers, strict=True):
            if one_size and size != self.size:
                raise IntegrityError(
                    f"{file}: found {size[0]}x{size[1]} pixels, expected {self.size[0]}x{self.size[1]} like {self.files[0].name}",
                    "write all generated images in one size; photographs to compare them with may have any: --reference FOLDER",
                )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Images start .. stop - 1 as uint8 [stop - start, H, W, 3]; where sizes differ, ask for one at a time.

        Raises IndexError outside the folder; IntegrityError, naming the file, where one is cut, or has transparency.
        """
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"images {start} to {stop} of {len(self)}")
        return np.stack([self._read(file) for file in self.files[start:stop]])

    def require_count(self, prompts: int, limited: bool = False) -> None:
        """Raises IntegrityError unless there is an image for each prompt and none over (limited: more are allowed)."""
        if len(self) < prompts or (len(self) > prompts and not limited):
            raise IntegrityError(
                f"image folder: {self.path} holds {len(self)} images for {prompts} prompts, expected one each, in order",
                f"sbv2bench eval --model {shlex.quote(str(self.path))} --limit {len(self)}"
                if len(self) < prompts
                else "keep only the images of these prompts",
            )

    def _read(self, path: Path) -> NDArray[np.uint8]:
        with refusing_broken(str(path)), Image.open(path) as image:
            pixels = np.asarray(plain(image, str(path)).convert("RGB"))
        if self.one_size and pixels.shape != (self.size[1], self.size[0], 3):
            raise IntegrityError(
                f"{path}: found {pixels.shape[1]}x{pixels.shape[0]} pixels, expected {self.size[0]}x{self.size[1]}: it changed"
            )
        return pixels


def natural_key(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """Sorts names with their digits as numbers; the plain name decides between equals (1.png and 01.png)."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part], path.name


def pictures_below(folder: Path, what: str) -> list[str]:
    """The pictures in a folder and below it, links followed, as `pictures_among` has them.

    Raises as that, and IntegrityError for a link to nothing, one that leads back, or what is neither file nor folder.
    """
    files = _files_below(folder, folder, (folder.resolve(),))
    return pictures_among(files, lambda name: _head(folder / name), f"{what}: {folder}")


def pictures_among(names: Iterable[str], head: Callable[[str], bytes], where: str) -> list[str]:
    """Of paths in a folder or an archive, with slashes, those of pictures, in natural order of their plain names.

    head: the first HEAD bytes of a file, asked only of those that their name does not tell. where: what errors begin with.
    Raises InputError (none, or pictures that are not read: of another kind, without a suffix, hidden), IntegrityError (a plain
    name twice).
    """
    found: list[str] = []
    others: list[str] = []
    for name in names:
        *above, plain_name = PurePosixPath(name).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in above):
            continue
        suffix, hidden = PurePosixPath(plain_name).suffix.lower(), plain_name.startswith(".")
        if suffix in SUFFIXES and not hidden:
            found.append(name)
        elif (suffix in OTHERS and not hidden) or begins_as_picture(head(name)):
            others.append(name)
    if others:
        listed = ", ".join(sorted(others)[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise InputError(
            f"{where} holds {len(others)} images of other kinds ({listed}), expected {_kinds()}, not hidden",
            "convert or rename them, or move them out",
        )
    if not found:
        raise InputError(f"{where} holds no images, expected {_kinds()}")
    found.sort(key=lambda name: (natural_key(Path(name)), name))
    seen: set[str] = set()
    for name in found:
        plain_name = PurePosixPath(name).name
        if plain_name in seen:
            raise IntegrityError(f"{where} holds {plain_name} twice", "keep one of the two")
        seen.add(plain_name)
    return found


def begins_as_picture(head: bytes) -> bool:
    """Whether the first HEAD bytes of a file are those of a picture, whatever its name."""
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    bitmap = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
    return riff or bitmap or head.startswith(_BEGINNINGS) or head[4:].startswith(_ISO_PICTURES)


def shows_pictures(folder: Path) -> bool:
    """Whether a folder is one of pictures by the names in it and below it, read or not."""
    near = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))  # which follows links, as rglob does not
    names = (path.name for path in chain(near, islice(folder.rglob("*"), _LOOKED_AT)))
    return any(not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES | OTHERS for name in names)


@contextmanager
def refusing_broken(where: str, fix: str = REMOVE) -> Iterator[None]:
    """Raises IntegrityError, which begins with where, in place of what PIL raises over a file that is no picture, or broken."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise IntegrityError(f"{where}: found a file that is not an image", fix) from error
    except UNREADABLE as error:
        raise IntegrityError(f"{where}: the image is broken or cut ({error})", fix) from error


def plain(image: Image.Image, where: str, *, turn: bool = True) -> Image.Image:
    """An open picture decoded, of mode RGB or L, which loses nothing. turn: as its EXIF orientation says.

    where: what errors begin with. Raises IntegrityError as `check_header`, and for pixels that can be seen through; what PIL
    raises over a file that is broken or cut.
    """
    check_header(image, where)
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise IntegrityError(f"{where}: found transparent pixels, which have no one colour, expected an opaque image", REMOVE)
    upright = ImageOps.exif_transpose(image) if turn and orientation_of(image) != _UPRIGHT else image
    return upright if upright.mode in {"RGB", "L"} else upright.convert("RGB")


def check_header(image: Image.Image, where: str) -> None:
    """Raises IntegrityError, decoding nothing, unless an open picture is one still of eight bits of colour or grey."""
    if image.mode not in MODES or _is_deep(image):
        depth = f"{image.mode}, 16 bits a channel" if image.mode in MODES else image.mode
        raise IntegrityError(f"{where}: found pixels of mode {depth}, expected 8-bit colour or grey", REMOVE)
    count = int(getattr(image, "n_frames", 1))
    if count > 1 and image.format != "MPO":  # a camera's MPO: the photograph, then previews of it
        raise IntegrityError(f"{where}: found {count} pictures in one file, expected one (animated, or of several pages)", REMOVE)
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:  # PIL only warns up to twice that
        raise IntegrityError(f"{where}: found {width}x{height} pixels, expected at most {Image.MAX_IMAGE_PIXELS} in all", REMOVE)


def orientation_of(image: Image.Image) -> int:
    """An open picture's EXIF orientation, 1 (upright, also where it has none) to 8. A TIFF's is 1: PIL turns it by itself."""
    if image.format == "TIFF" or (image.format == "PNG" and not {"exif", "xmp", "Raw profile type exif"} & set(image.info)):
        return _UPRIGHT  # asked for its EXIF, a PNG without any would be decoded
    found = image.getexif().get(_ORIENTATION, _UPRIGHT)
    return found if found in range(1, 9) else _UPRIGHT


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an open picture once it is turned as its EXIF orientation says."""
    width, height = image.size
    return (height, width) if orientation_of(image) in _ON_ITS_SIDE else (width, height)


def _is_deep(image: Image.Image) -> bool:
    """Whether PIL would cut 16 bits a channel down to 8 without saying so, as it does with colour."""
    tiles = getattr(image, "tile", ()) if image.format != "BMP" else ()  # whose 16 bits are of all channels together
    maxima = (tile[3][1] for tile in tiles if tile[0].startswith("ppm") and isinstance(tile[3], tuple))
    return any(";16" in str(tile[3]) for tile in tiles) or any(isinstance(most, int) and most > 255 for most in maxima)


def _header(path: Path) -> tuple[tuple[int, int], int]:
    """((width, height) once turned, EXIF orientation) of a picture that may be read."""
    with refusing_broken(str(path)), Image.open(path) as image:
        check_header(image, str(path))
        return upright_size(image), orientation_of(image)


def _files_below(folder: Path, top: Path, above: tuple[Path, ...]) -> Iterator[str]:
    """Paths from top, with slashes, of the files below a folder; above: what it lies in, itself included, links resolved."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise IntegrityError(f"{folder}: cannot be read ({error.strerror})", "make it readable, or move it out") from error
    for entry in entries:
        path, hidden = folder / entry.name, entry.name.startswith(".")
        if path.is_dir():
            if hidden:
                continue
            real = path.resolve()
            if real in above:
                raise IntegrityError(f"{path}: found a link that leads back to {real}", "remove the link")
            yield from _files_below(path, top, (*above, real))
        elif path.is_file():
            yield path.relative_to(top).as_posix()
        elif not hidden:
            what = "a link to nothing" if entry.is_symlink() else "neither a file nor a folder"
            raise IntegrityError(f"{path}: found {what}, expected an image", REMOVE)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror})", REMOVE) from error


def _kinds() -> str:
    return ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
