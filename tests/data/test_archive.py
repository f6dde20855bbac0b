"""Photographs in a zip or a folder: the same list, content and pixels either way, and what is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from photographs import photograph, photographs, write_tar, write_zip
from PIL import Image

from sbv2bench.data import archive as module
from sbv2bench.data import digests, members
from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.preparation import prepare_image
from sbv2bench.data.reference import reference_archive
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.specs import SuiteSpec


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def both(tmp_path: Path) -> tuple[ImageArchive, ImageArchive]:
    files = photographs()
    return ImageArchive(write_zip(tmp_path / "val2014.zip", files)), ImageArchive(write_folder(tmp_path / "f" / "val2014", files))


def test_a_zip_and_its_folder_are_the_same(both: tuple[ImageArchive, ImageArchive]) -> None:
    files = photographs()
    expected = np.stack([prepare_image(Image.open(io.BytesIO(content))) for content in files.values()])
    for archive in both:
        assert archive.names == tuple(files)
        archive.require_count(7)
        archive.check_headers()
        assert np.array_equal(archive.read_prepared(0, 7), expected)
        assert np.array_equal(archive.read_prepared(2, 5, threads=3), expected[2:5])
    assert both[0].content_sha256() == both[1].content_sha256()


def test_a_changed_byte_or_name_is_other_content(both: tuple[ImageArchive, ImageArchive]) -> None:
    folder = both[1].path
    before = both[1].content_sha256()
    file = folder / both[1].names[3]
    file.write_bytes(photograph(99))
    changed = ImageArchive(folder).content_sha256()
    file.rename(file.with_name(f"{file.stem}b.jpg"))  # stays in its place in the order
    assert len({before, changed, ImageArchive(folder).content_sha256()}) == 3


def test_the_content_hash_is_remembered(both: tuple[ImageArchive, ImageArchive], monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time_ns() + 10 * 10**9  # of files that are fresh no hash is remembered
    monkeypatch.setattr(digests.time, "time_ns", lambda: later)
    for archive in both:
        before = archive.content_sha256()
        with monkeypatch.context() as patch:
            patch.setattr(ImageArchive, "hash_all", lambda self: pytest.fail("read again"))
            assert ImageArchive(archive.path).content_sha256() == before


@pytest.mark.parametrize("count", [6, 8])
def test_missing_and_extra_images(both: tuple[ImageArchive, ImageArchive], count: int) -> None:
    for archive in both:
        with pytest.raises(IntegrityError, match=f"holds 7 images, expected {count}"):
            archive.require_count(count)


def bad_files() -> dict[str, tuple[bytes, str]]:
    whole = photograph(5, form="PNG")
    return {
        "truncated.png": (whole[: len(whole) // 2], "broken or cut"),
        "truncated.jpg": (photograph(5)[:-400], "broken or cut"),
        "cmyk.jpg": (photograph(5, mode="CMYK"), "mode CMYK"),
        "text.jpg": (b"I am a text", "not an image"),
        "empty.jpg": (b"", "not an image"),
    }


@pytest.mark.parametrize("name", list(bad_files()))
@pytest.mark.parametrize("zipped", [True, False])
def test_bad_photographs_are_named(name: str, zipped: bool, tmp_path: Path) -> None:
    content, says = bad_files()[name]
    files = {"a.jpg": photograph(1), name: content}
    archive = ImageArchive(write_zip(tmp_path / "z.zip", files) if zipped else write_folder(tmp_path / "f", files))
    row = archive.names.index(name)
    archive.read_prepared(1 - row, 2 - row)  # the good twin
    with pytest.raises(IntegrityError, match=says) as caught:
        archive.read_prepared(row, row + 1)
    assert name in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_broken_zips_doubles_and_nothing(tmp_path: Path) -> None:
    good = write_zip(tmp_path / "good.zip", photographs())
    content = good.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match="no whole zip"):
        ImageArchive(tmp_path / "cut.zip")
    flipped = bytearray(content)
    flipped[content.index(photographs()["COCO_val2014_000000000003.jpg"]) + 300] ^= 1
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(IntegrityError, match=r"000000000003\.jpg cannot be read \(Bad CRC"):
        ImageArchive(tmp_path / "flipped.zip").content_sha256()
    folder = write_folder(tmp_path / "f", photographs())
    write_folder(folder / "again", photographs(1))
    with pytest.raises(IntegrityError, match=r"000000000000\.jpg twice"):
        ImageArchive(folder)
    with pytest.raises(InputError, match="does not exist"):
        ImageArchive(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        ImageArchive(tmp_path / "empty")


def test_hostile_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for inside in ("../../../etc/", "/etc/", "val/../../"):
        with pytest.raises(IntegrityError, match="expected names inside the archive"):
            ImageArchive(write_zip(tmp_path / "climbing.zip", {"a.jpg": photograph(1)}, inside=inside))
    path = write_zip(tmp_path / "z.zip", {"a.jpg": photograph(1)})
    ImageArchive(path).read_prepared(0, 1)
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(IntegrityError, match="expected at most 100 of a photograph"):
        ImageArchive(path).read_prepared(0, 1)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with pytest.raises(IntegrityError, match=r"a\.jpg"), pytest.warns(Image.DecompressionBombWarning):
        ImageArchive(path).read_prepared(0, 1)


def suite(location: Path, **reference: str) -> SuiteSpec:
    fields = {"id": "x", "family": "full", "num_generated": 4, "num_reference": 7, "metrics": [], "prompts": {}}
    return SuiteSpec.model_validate(
        {**fields, "reference": {"location": str(location), **reference}, "preparation": "centre-crop-lanczos-256"}
    )


def test_a_suites_reference_is_counted_and_hashed(both: tuple[ImageArchive, ImageArchive]) -> None:
    right = both[0].content_sha256()
    for archive in both:
        assert reference_archive(suite(archive.path, content_sha256=right)) is not None
        with pytest.raises(IntegrityError, match="are not the suite's"):
            reference_archive(suite(archive.path, content_sha256="0" * 64))
        with pytest.raises(IntegrityError, match="holds 7 images, expected 8"):
            reference_archive(suite(archive.path).model_copy(update={"num_reference": 8}))
        assert reference_archive(suite(archive.path).model_copy(update={"preparation": None})) is not None  # of any sizes


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_the_same_too_however_it_is_compressed(
    mode: str, tmp_path: Path, both: tuple[ImageArchive, ImageArchive]
) -> None:
    archive = ImageArchive(write_tar(tmp_path / "val2014.anything", photographs(), mode))
    assert archive.names == both[0].names
    assert archive.content_sha256() == both[0].content_sha256()
    assert archive.check_headers() == both[0].check_headers() == [(64 + 3 * i, 48 + i % 3) for i in range(7)]
    assert np.array_equal(archive.read_prepared(0, 7, threads=3), both[1].read_prepared(0, 7))
    native = archive.read(0, 7)
    assert [image.shape for image in native] == [(48 + i % 3, 64 + 3 * i, 3) for i in range(7)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "val2014.anything", "val2014.zip"]  # nothing is unpacked


def test_hostile_and_broken_tars_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for inside in ("../", "/etc/", "a/../../"):
        with pytest.raises(IntegrityError, match="expected names inside the archive"):
            ImageArchive(write_tar(tmp_path / "climbing.tar", {"a.jpg": photograph(1)}, inside=inside))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        with tarfile.open(tmp_path / "links.tar", "w") as target:
            member = tarfile.TarInfo("a.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            target.addfile(member)
        with pytest.raises(IntegrityError, match=r"a\.jpg is (a link|no plain file), expected the image itself"):
            ImageArchive(tmp_path / "links.tar")
    whole = write_tar(tmp_path / "good.tar.gz", photographs(), "w:gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match="cut or broken"):
        ImageArchive(tmp_path / "cut.tar.gz")
    whole = write_tar(tmp_path / "good.tar", photographs()).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: whole.index(photographs()["COCO_val2014_000000000003.jpg"]) + 200])
    with pytest.raises(IntegrityError, match="cut or broken"):
        ImageArchive(tmp_path / "cut.tar")
    monkeypatch.setattr(members, "SMALL", 2**20)
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as bomb:
        bomb.write(bytes(2**24))
    with pytest.raises(IntegrityError, match="100 times the file's own"):
        ImageArchive(tmp_path / "bomb.tar.gz")
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(IntegrityError, match="expected at most 100 of a photograph"):
        ImageArchive(tmp_path / "good.tar").read(0, 1)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as target:
        member = zipfile.ZipInfo("a.jpg")
        member.external_attr = 0o120777 << 16
        target.writestr(member, "/etc/passwd")
    with pytest.raises(IntegrityError, match=r"a\.jpg is a link"):
        ImageArchive(tmp_path / "z.zip")


def test_a_header_beyond_the_first_bytes_is_read(tmp_path: Path) -> None:
    """A JPEG whose markers before the size are longer than what is read first."""
    content = photograph(1)
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    write_folder(tmp_path / "f", {"a.jpg": content[:2] + 2 * comment + content[2:]})
    assert ImageArchive(tmp_path / "f").check_headers() == [(64, 48)]
