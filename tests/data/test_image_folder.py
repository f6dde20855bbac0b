"""A folder of images: order, and everything that can be wrong with a file, beside the good twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sbv2bench.data.images import ImageFolder
from sbv2bench.errors import InputError, IntegrityError


def picture(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, 0.png to 11.png."""
    path = tmp_path / "images"
    path.mkdir()
    for i in range(12):
        Image.fromarray(picture(i)).save(path / f"{i}.png")
    return path


def test_images_come_in_natural_order_as_they_were_written(folder: Path) -> None:
    images = ImageFolder(folder)
    assert len(images) == 12
    assert images.size == (16, 16)
    assert [file.stem for file in images.files] == [str(i) for i in range(12)]  # not 0, 1, 10, 11, 2
    read = images.read(0, 12)
    assert read.shape == (12, 16, 16, 3)
    assert read.dtype == np.uint8
    assert all(np.array_equal(read[i], picture(i)) for i in range(12))
    assert np.array_equal(images.read(9, 11), read[9:11])
    for start, stop in ((-1, 2), (11, 13), (3, 3)):
        with pytest.raises(IndexError):
            images.read(start, stop)


def test_other_names_and_formats_count_and_other_files_do_not(folder: Path) -> None:
    Image.fromarray(picture(50)).save(folder / "a12.JPG")
    Image.fromarray(picture(51)).save(folder / "a13.jpeg")
    Image.fromarray(picture(52)).save(folder / "a14.webp", lossless=True)
    (folder / "prompts.json").write_text("[]")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / ".hidden.png").write_bytes(b"\0")
    (folder / "sub").mkdir()
    images = ImageFolder(folder)
    assert [file.name for file in images.files[12:]] == ["a12.JPG", "a13.jpeg", "a14.webp"]
    assert np.array_equal(images.read(14, 15)[0], picture(52))


def test_no_folder_a_file_and_an_empty_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "gone", "nothing"), (folder / "0.png", "a file"), (tmp_path / "empty", "no images")):
        with pytest.raises(InputError, match=message) as caught:
            ImageFolder(path)
        assert caught.value.exit_code == 2
        assert str(path) in str(caught.value)


def test_an_image_of_a_kind_that_is_not_read_is_not_passed_over(folder: Path) -> None:
    Image.fromarray(picture(0)).save(folder / "12.ico")
    with pytest.raises(InputError, match=r"12\.ico"):
        ImageFolder(folder)


def test_a_file_that_is_not_an_image(folder: Path) -> None:
    (folder / "5.png").write_text("I am a text")
    with pytest.raises(IntegrityError, match=r"5\.png.*not an image") as caught:
        ImageFolder(folder)
    assert caught.value.exit_code == 4


def test_an_empty_file(folder: Path) -> None:
    (folder / "5.png").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"5\.png"):
        ImageFolder(folder)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_cut_file_is_named_when_it_is_read(folder: Path, suffix: str) -> None:
    path = folder / f"12.{suffix}"
    Image.fromarray(picture(5)).save(path)
    ImageFolder(folder).read(12, 13)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(IntegrityError, match=rf"12\.{suffix}"):
        ImageFolder(folder).read(0, 13)


def test_mixed_sizes(folder: Path) -> None:
    Image.fromarray(picture(5, size=17)).save(folder / "7.png")
    with pytest.raises(IntegrityError, match=r"7\.png: found 17x17 pixels, expected 16x16"):
        ImageFolder(folder)


def test_grey_and_palette_images_become_rgb(folder: Path) -> None:
    grey = picture(3)[:, :, 0]
    Image.fromarray(grey).save(folder / "12.png")
    flat = np.tile(np.uint8([10, 200, 30]), (16, 16, 1))
    Image.fromarray(flat).quantize(4).save(folder / "13.png")
    Image.fromarray(np.dstack([picture(4), np.full((16, 16), 255, np.uint8)])).save(folder / "14.png")  # opaque
    images = ImageFolder(folder).read(12, 15)
    assert np.array_equal(images[0], np.repeat(grey[:, :, None], 3, axis=2))
    assert np.array_equal(images[1], flat)
    assert np.array_equal(images[2], picture(4))


def test_sixteen_bits_and_transparency_are_refused(folder: Path) -> None:
    Image.fromarray(np.full((16, 16), 40000, np.uint16)).save(folder / "12.png")
    with pytest.raises(IntegrityError, match=r"12\.png: found pixels of mode I;16"):
        ImageFolder(folder)
    alpha = np.full((16, 16), 255, np.uint8)
    alpha[3, 4] = 254
    Image.fromarray(np.dstack([picture(4), alpha])).save(folder / "12.png")
    with pytest.raises(IntegrityError, match=r"12\.png: found transparent"):
        ImageFolder(folder).read(12, 13)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [100, 200])
def test_a_decompression_bomb_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """PIL raises above twice its limit, and only warns below."""
    ImageFolder(folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(IntegrityError, match=r"0\.png"):
        ImageFolder(folder)


def test_an_image_that_changed_its_size_meanwhile(folder: Path) -> None:
    images = ImageFolder(folder)
    Image.fromarray(picture(5, size=8)).save(folder / "7.png")
    with pytest.raises(IntegrityError, match=r"7\.png: found 8x8 pixels"):
        images.read(0, 12)


def test_counts_of_images_and_prompts(folder: Path) -> None:
    images = ImageFolder(folder)
    images.require_count(12)
    images.require_count(10, limited=True)
    for prompts, limited in ((13, False), (13, True), (11, False)):
        with pytest.raises(IntegrityError, match=f"12 images for {prompts} prompts"):
            images.require_count(prompts, limited)
