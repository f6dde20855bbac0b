"""Caption lists in files: all four forms of COCO's, HPSv2's prompts, and everything that can be wrong with them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sbv2bench.data import caption_files
from sbv2bench.data.caption_files import STYLES, captions_sha256, read_captions, read_styles, released_form
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry

CAPTIONS = ["A man with a red helmet. ", " two\nlines", "plain", "é, ü", "plain"]
# COCO 2014 val's captions as the paper lists them (40,504), where somebody has the file.
REAL = Path(os.environ["COCO2014_CAPTIONS"]) if "COCO2014_CAPTIONS" in os.environ else None


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), "utf-8")
    return path


def forms() -> dict[str, Any]:
    """The same captions as every kind of file has them, among others that are not to be taken."""
    images = [{"id": 900 - i, "file_name": f"COCO_val2014_{i}.jpg"} for i in range(len(CAPTIONS))]
    annotations = [{"id": 50 - i, "image_id": 900 - i, "caption": caption} for i, caption in enumerate(CAPTIONS)]
    later = [{"id": 100 + i, "image_id": 900 - i, "caption": "another"} for i in range(len(CAPTIONS))]
    sentences = [{"filename": "COCO_val2014_1.jpg", "sentences": [{"raw": c}, {"raw": "another"}]} for c in CAPTIONS]
    train = {"filename": "COCO_train2014_1.jpg", "sentences": [{"raw": "of the training split"}]}
    return {
        "labels": json.loads(released_form(CAPTIONS)),
        "coco": {"images": images, "annotations": annotations + later},
        "coco, lowest ids last in the file": {"images": images, "annotations": later + annotations},
        "karpathy": {"images": [train, *sentences]},
        "list": CAPTIONS,
    }


@pytest.mark.parametrize("form", list(forms()))
def test_every_form_gives_the_same_raw_text(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "captions.json", forms()[form])
    for count in (3, 5):
        assert read_captions(path, count, captions_sha256(CAPTIONS[:count])) == tuple(CAPTIONS[:count])


def test_hash_is_of_raw_text_joined_with_newlines() -> None:
    assert captions_sha256(["a ", "b"]) == hashlib.sha256(b"a \nb").hexdigest() != captions_sha256(["a", "b"])


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (["a", "b"], IntegrityError, "found 2 captions, expected at least 5"),
        ([*CAPTIONS[:4], "other"], IntegrityError, "not the suite's"),
        ([c.strip() for c in CAPTIONS], IntegrityError, "not the suite's"),
        ([CAPTIONS[1], CAPTIONS[0], *CAPTIONS[2:]], IntegrityError, "not the suite's"),
        ([*CAPTIONS[:4], 5], IntegrityError, "list of strings"),
        ([*CAPTIONS[:3], " \u200b", ""], IntegrityError, r"no caption in row 4 \(blank\), row 5 \(blank\)"),
        ({"labels": [["a.png", caption] for caption in ["", *CAPTIONS]]}, IntegrityError, r"row 1 \(blank\)"),
        (
            {
                "images": [{"id": i} for i in range(5)],
                "annotations": [{"id": i, "image_id": i, "caption": c} for i, c in enumerate([*CAPTIONS[:4], "  "])],
            },
            IntegrityError,
            r"row 5 \(blank\)",
        ),
        (
            {
                "images": [{"id": i} for i in range(5)],
                "annotations": [{"id": i, "image_id": i, "caption": None} for i in range(5)],
            },
            IntegrityError,
            "list of strings",
        ),
        (
            {"images": [{"filename": "val2014", "sentences": [{"raw": c}]} for c in [*CAPTIONS[:4], ""]]},
            IntegrityError,
            r"row 5 \(blank\)",
        ),
        ({"captions": []}, InputError, "found captions, expected"),
        ({"labels": [["only a path"]]}, InputError, "no list of captions"),
        ({"images": [{"id": 1}], "annotations": []}, InputError, "no list of captions"),
        (5, InputError, "no list of captions"),
        ({}, InputError, "found nothing"),
    ],
)
def test_wrong_lists(content: Any, error: type[Exception], says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "captions.json", content)
    with pytest.raises(error, match=says) as caught:
        read_captions(path, 5, captions_sha256(CAPTIONS))
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        read_captions(tmp_path / "none.json", 5, None)
    for text in ("{", "[" * 100_000):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(IntegrityError, match="not JSON"):
            read_captions(tmp_path / "broken.json", 5, None)


def write_styles(folder: Path, pattern: str = "{}.json") -> dict[str, list[str]]:
    prompts = {style: [f"{style} {i} " for i in range(3)] for style in STYLES}
    for style, own in prompts.items():
        path = folder / pattern.format(style)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, own)
    return prompts


@pytest.mark.parametrize("pattern", ["{}.json", "benchmark/{}.json", "benchmark_{}.json"])
def test_styles_one_after_another(pattern: str, tmp_path: Path) -> None:
    prompts = write_styles(tmp_path, pattern)
    found, styles = read_styles(tmp_path, 12, None)
    assert found == tuple(prompt for style in STYLES for prompt in prompts[style])
    assert styles == tuple(style for style in STYLES for _ in range(3))
    assert read_styles(tmp_path, 12, captions_sha256(found)) == (found, styles)


def test_wrong_styles(tmp_path: Path) -> None:
    write_styles(tmp_path)
    with pytest.raises(IntegrityError, match="not the suite's"):
        read_styles(tmp_path, 12, "0" * 64)
    with pytest.raises(InputError, match="multiple of 4"):
        read_styles(tmp_path, 10, None)
    with pytest.raises(IntegrityError, match=r"anime\.json: found 3 prompts, expected 4"):
        read_styles(tmp_path, 16, None)
    (tmp_path / "photo.json").unlink()
    with pytest.raises(InputError, match="style photo"):
        read_styles(tmp_path, 12, None)


@pytest.mark.skipif(REAL is None, reason="the released caption list is no part of the project; it is fetched by hash")
def test_the_released_list_is_what_the_suite_says() -> None:
    """Count, order, both hashes, the list's known statistics, and that the file can be rebuilt byte for byte."""
    assert REAL is not None
    suite, asset = Registry.load().suites["coco2014-30k"], Registry.load().assets["coco2014-captions"]
    captions = read_captions(REAL, suite.num_generated, suite.prompts.captions_sha256)
    assert (len(captions), len(set(captions))) == (30_000, 29_742)
    assert captions[0] == "A man with a red helmet on a small moped on a dirt road. "
    (every,) = caption_files.all_captions(REAL)
    assert len(every) == suite.num_reference == 40_504
    assert sum(caption != caption.strip() for caption in every) == 5_802
    assert sum("\n" in caption for caption in every) == 158
    rebuilt = released_form(every)
    assert (len(rebuilt), hashlib.sha256(rebuilt).hexdigest()) == (asset.bytes, asset.sha256)


def test_blank_prompts_of_a_style_are_named(tmp_path: Path) -> None:
    for style in STYLES:
        write(tmp_path / f"{style}.json", ["one", "two"])
    assert len(read_styles(tmp_path, 8, None)[0]) == 8
    write(tmp_path / "photo.json", ["one", "\t"])
    with pytest.raises(IntegrityError, match=r"photo\.json: found no caption in row 2 \(blank\)"):
        read_styles(tmp_path, 8, None)
