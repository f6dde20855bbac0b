"""One rule for folders of pictures, whoever reads them: every picture counts, or the refusal names it."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.images import SUFFIXES, ImageFolder
from sbv2bench.data.preparation import prepare_image
from sbv2bench.data.reference import reference_archive
from sbv2bench.errors import InputError, IntegrityError, SBV2BenchError
from sbv2bench.registry import Registry, model_in_folder
from sbv2bench.specs import ReferenceSpec, SuiteSpec

SIDES = (24, 16)  # width, height
ORIENTATION = 0x0112


def pixels(seed: int) -> np.ndarray:
    """Flat colour, which every kind of file keeps but for a few levels."""
    return np.tile(np.random.default_rng(seed).integers(0, 256, 3, dtype=np.uint8), (SIDES[1], SIDES[0], 1))


def corner_marked() -> Image.Image:
    """Grey, with a red block in the upper left."""
    array = np.full((SIDES[1], SIDES[0], 3), 128, np.uint8)
    array[:8, :8] = (255, 0, 0)
    return Image.fromarray(array)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as target:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                target.write(file, file.relative_to(folder))
    return path


READERS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "--images": lambda folder: tuple(file.name for file in ImageFolder(folder).files),
    "--reference folder": lambda folder: ImageArchive(folder).names,
    "--reference zip": lambda folder: ImageArchive(zipped(folder)).names,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photos"
    path.mkdir()
    for i in range(3):
        Image.fromarray(pixels(i)).save(path / f"{i}.png")
    return path


@pytest.fixture(params=list(READERS))
def names(request: pytest.FixtureRequest) -> Callable[[Path], tuple[str, ...]]:
    return READERS[request.param]


def test_every_kind_counts_whatever_the_case_of_its_suffix(folder: Path, names: Callable[[Path], tuple[str, ...]]) -> None:
    for number, suffix in enumerate(sorted(SUFFIXES)):
        form = {".jpe": "JPEG", ".jfif": "JPEG", ".pnm": "PPM"}.get(suffix)
        Image.fromarray(pixels(number)).save(folder / f"b{number}{suffix.upper()}", form)
    Image.fromarray(pixels(0)).save(folder / "c.JPeG")
    (folder / "below" / "deep").mkdir(parents=True)
    Image.fromarray(pixels(0)).save(folder / "below" / "deep" / "d.png")
    (folder / "captions.txt").write_text("BM or GIF, as a text says")
    assert names(folder) == (
        "0.png", "1.png", "2.png", *(f"b{n}{suffix.upper()}" for n, suffix in enumerate(sorted(SUFFIXES))), "c.JPeG", "d.png",
    )  # fmt: skip
    images = ImageFolder(folder)
    reference = ImageArchive(folder).read_prepared(0, len(images))
    for place in range(3, len(images)):
        expected = pixels(place - 3 if place < 3 + len(SUFFIXES) else 0)
        assert np.abs(images.read(place, place + 1)[0].astype(int) - expected).max() < 16  # jpeg, gif
        assert np.abs(reference[place, 0, 0].astype(int) - expected[0, 0]).max() < 16


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("photo.heic", b"\0\0\0\x18ftypheic"),
        ("photo.JXL", b"\xff\x0a"),
        ("drawing.svg", b"<svg/>"),
        ("raw.NEF", b"MM\0*"),
        ("photo", b"\xff\xd8\xff\xe0"),
        ("photo.png.part", b"\x89PNG\r\n\x1a\n"),
        ("photo.backup", b"RIFF0000WEBPVP8 "),
        (".hidden.png", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_a_picture_that_is_not_read_is_named(
    folder: Path, names: Callable[[Path], tuple[str, ...]], name: str, content: bytes
) -> None:
    assert len(names(folder)) == 3
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="holds 1 images of other kinds") as caught:
        names(folder)
    assert name in str(caught.value) and caught.value.exit_code == 2


def test_what_is_no_picture_and_what_hides_in_other_programs_folders_does_not_count(
    folder: Path, names: Callable[[Path], tuple[str, ...]]
) -> None:
    for name, content in (
        (".DS_Store", b"\0\0\0\1Bud1"),
        ("._0.png", b"\0\5\x16\7"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0"),
        ("a.h5", b"\x89HDF"),
    ):
        (folder / name).write_bytes(content)
    for hidden in (".thumbnails", "__MACOSX"):
        (folder / hidden).mkdir()
        Image.fromarray(pixels(9)).save(folder / hidden / "9.png")
    assert names(folder) == ("0.png", "1.png", "2.png")


@pytest.mark.parametrize("reader", ["--images", "--reference folder"])
def test_links_are_followed_and_broken_ones_named(folder: Path, tmp_path: Path, reader: str) -> None:
    more = tmp_path / "more"
    more.mkdir()
    Image.fromarray(pixels(5)).save(more / "5.png")
    (folder / "linked").symlink_to(more)
    (folder / "6.png").symlink_to(folder / "0.png")
    assert READERS[reader](folder) == ("0.png", "1.png", "2.png", "5.png", "6.png")
    for target, says in (
        (tmp_path / "gone.png", "a link to nothing"),
        (folder, "leads back"),
        (folder / "x.png", "a link to nothing"),
    ):
        (folder / "x.png").symlink_to(target)
        with pytest.raises(IntegrityError, match=says) as caught:
            READERS[reader](folder)
        assert "x.png" in str(caught.value) and caught.value.exit_code == 4
        (folder / "x.png").unlink()
    os.mkfifo(folder / "x.png")  # must not be opened: nobody ever writes to it
    with pytest.raises(IntegrityError, match="neither a file nor a folder"):
        READERS[reader](folder)


def test_a_name_twice_is_refused_wherever_it_lies(folder: Path, names: Callable[[Path], tuple[str, ...]]) -> None:
    (folder / "below").mkdir()
    Image.fromarray(pixels(7)).save(folder / "below" / "1.png")
    with pytest.raises(IntegrityError, match=r"1\.png twice"):
        names(folder)


def animated(path: Path) -> None:
    frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def sixteen_bits(path: Path) -> None:
    """A PNG of 16-bit colour, which PIL cannot write and opens as 8-bit RGB without a word."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + b"\x12\x34" * 3 * SIDES[0] for _ in range(SIDES[1]))
    header = struct.pack(">IIBBBBB", *SIDES, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def deep_ppm(path: Path) -> None:
    path.write_bytes(b"P6 %d %d 65535 " % SIDES + b"\x12\x34" * 3 * SIDES[0] * SIDES[1])


def seen_through(path: Path) -> None:
    array = np.dstack([pixels(1), np.full(SIDES[::-1], 255, np.uint8)])
    array[3, 4, 3] = 0
    Image.fromarray(array).save(path)


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "animated.gif": (animated, "3 pictures in one file"),
    "animated.webp": (animated, "3 pictures in one file"),
    "animated.png": (animated, "3 pictures in one file"),
    "pages.tif": (animated, "3 pictures in one file"),
    "cmyk.jpg": (lambda path: Image.fromarray(pixels(1)).convert("CMYK").save(path), "mode CMYK"),
    "grey16.png": (lambda path: Image.fromarray(np.full(SIDES[::-1], 40000, np.uint16)).save(path), "mode I;16"),
    "colour16.png": (sixteen_bits, "16 bits a channel"),
    "colour16.ppm": (deep_ppm, "16 bits a channel"),
    "float.tif": (lambda path: Image.fromarray(np.ones(SIDES[::-1], np.float32)).save(path), "mode F"),
    "glass.png": (seen_through, "transparent"),
    "text.gif": (lambda path: path.write_text("I am a text") and None, "not an image"),
}


@pytest.mark.parametrize("name", list(UNUSABLE))
@pytest.mark.parametrize("reader", ["--images", "--reference"])
def test_pixels_that_would_lose_something_are_named(folder: Path, name: str, reader: str) -> None:
    write, says = UNUSABLE[name]
    write(folder / name)
    with pytest.raises(IntegrityError, match=says) as caught:
        if reader == "--images":
            ImageFolder(folder).read(3, 4)
        else:
            ImageArchive(folder).read_prepared(3, 4)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", [name for name in UNUSABLE if name not in {"glass.png"}])
def test_headers_tell_it_before_anything_is_generated(folder: Path, name: str) -> None:
    archive = ImageArchive(folder)
    archive.check_headers()
    UNUSABLE[name][0](folder / name)
    with pytest.raises(IntegrityError, match=UNUSABLE[name][1]):
        ImageArchive(folder).check_headers()
    with pytest.raises(IntegrityError, match=UNUSABLE[name][1]):
        ImageFolder(folder)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_modes_that_lose_nothing_count_alike_in_both_readers(folder: Path, mode: str) -> None:
    Image.fromarray(pixels(4)).convert(mode).save(folder / "3.png")
    expected = np.asarray(Image.open(folder / "3.png").convert("RGB"))
    assert np.array_equal(ImageFolder(folder).read(3, 4)[0], expected)
    prepared = ImageArchive(folder).read_prepared(3, 4)[0]
    assert np.array_equal(prepared, prepare_image(Image.fromarray(expected)))


def test_a_cameras_file_with_a_preview_is_its_photograph(folder: Path) -> None:
    frames = [Image.fromarray(pixels(seed)) for seed in range(2)]
    frames[0].save(folder / "3.jpg", "MPO", save_all=True, append_images=frames[1:])
    with Image.open(folder / "3.jpg") as image:
        assert image.format == "MPO"
    assert np.abs(ImageFolder(folder).read(3, 4)[0].astype(int) - pixels(0)).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Against PIL's own operations; the corner that is marked goes where EXIF's table has it."""
    corner_marked().save(tmp_path / f"a.{suffix}", exif=oriented(orientation), quality=95)
    operation = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)  # fmt: skip
    upright = corner_marked() if operation is None else corner_marked().transpose(operation)
    images = ImageFolder(tmp_path)
    assert images.size == upright.size
    assert images.turned == (() if orientation == 1 else (f"a.{suffix}",))
    assert np.abs(images.read(0, 1)[0].astype(int) - np.asarray(upright)).mean() < 8
    turned, stored = (ImageArchive(tmp_path, turn=turn).read_prepared(0, 1)[0].astype(int) for turn in (True, False))
    assert np.abs(turned - prepare_image(upright)).mean() < 8
    assert np.abs(stored - prepare_image(corner_marked())).mean() < 8


def test_sizes_are_those_after_turning(tmp_path: Path) -> None:
    corner_marked().save(tmp_path / "0.png")
    corner_marked().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.jpg", exif=oriented(6))
    assert ImageFolder(tmp_path).size == SIDES
    corner_marked().save(tmp_path / "2.jpg", exif=oriented(6))
    with pytest.raises(IntegrityError, match=r"2\.jpg: found 16x24 pixels, expected 24x16 like 0\.png"):
        ImageFolder(tmp_path)
    assert ImageFolder(tmp_path, one_size=False).read(2, 3).shape == (1, 24, 16, 3)


def declared(reference: dict[str, str]) -> SuiteSpec:
    return SuiteSpec.model_validate(
        {
            "id": "x", "family": "full", "num_generated": 4, "num_reference": 1, "metrics": [], "prompts": {},
            "reference": reference, "preparation": "centre-crop-lanczos-256",
        }
    )  # fmt: skip


def test_the_protocol_says_whether_photographs_are_turned(tmp_path: Path) -> None:
    """A user's own are, unless the suite says otherwise; a declared download lies as it was published."""
    corner_marked().save(tmp_path / "a.jpg", exif=oriented(6))
    own, stored = declared({"location": str(tmp_path)}), declared({"location": str(tmp_path), "orientation": "stored"})
    assert own.protocol()["reference"] == {"content_sha256": None, "orientation": "exif"}
    assert stored.protocol()["reference"] == {"content_sha256": None}
    found = [reference_archive(suite) for suite in (own, stored)]
    assert [archive is not None and archive.turn for archive in found] == [True, False]
    assert Registry.built_in().suite("coco2014-30k").protocol()["reference"] == {"content_sha256": None}
    assert not ReferenceSpec(location="asset:coco2014-val").is_turned


def test_a_folder_of_whatever_pictures_is_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("a.heic", "below/a.TIFF"):
        folder = tmp_path / name.replace(".", "_").replace("/", "_")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x")
        assert model_in_folder(folder).sampler == "image_folder"
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="neither a model nor images"):
        model_in_folder(tmp_path / "none")


def test_broken_pictures_never_end_in_a_librarys_traceback(tmp_path: Path) -> None:
    """Every kind, cut and with bytes changed: an image, or one of our own errors that names the file."""
    rng = np.random.default_rng(0)
    for suffix in sorted(SUFFIXES):
        form = {".jpe": "JPEG", ".jfif": "JPEG", ".pnm": "PPM", ".jpg": "JPEG", ".tif": "TIFF", ".pgm": "PPM"}.get(suffix)
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*SIDES[::-1], 3), dtype=np.uint8)).save(out, form or suffix[1:])
        whole = out.getvalue()
        for trial in range(12):
            content = bytearray(whole[: int(rng.integers(1, len(whole)))] if trial % 2 else whole)
            for place in rng.integers(0, len(content), 6):
                content[place] = rng.integers(0, 256)
            folder = tmp_path / f"{suffix[1:]}{trial}"
            folder.mkdir()
            (folder / f"a{suffix}").write_bytes(bytes(content))
            try:
                ImageFolder(folder).read(0, 1)
            except SBV2BenchError as error:
                assert f"a{suffix}" in str(error)
