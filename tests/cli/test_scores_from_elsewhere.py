"""Images out and scores in as a user types it: bad scores end in exit 2 or 4, with the row that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from commands_in_process import Done, refused
from PIL import Image

from sbv2bench.evaluation.manifest import image_id

IDS = [image_id(index, 0, 0) for index in range(4)]


@pytest.fixture
def exported(run: Callable[..., Done], tmp_path: Path) -> Callable[[Sequence[tuple[str, str]]], Done]:
    """The images of a result in `out`; takes (id, value) and imports them."""
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "captions.txt").write_text("".join(f"caption {number}\n" for number in range(4)))
    options = ("--prompts", "captions.txt", "--suite", "mini", "--reference", "none", "--metrics", "clip", "--json")
    assert run("score", "--images", "pictures", *options).code == 0
    (result,) = (tmp_path / "results").rglob("own@v1/*.json")
    assert run("export", str(result), "--to", "out").code == 0

    def scored(rows: Sequence[tuple[str, str]]) -> Done:
        (tmp_path / "scores.csv").write_text("id,value\n" + "".join(f"{name},{value}\n" for name, value in rows))
        words = ("--manifest", "out/manifest.jsonl", "--metric", "vqascore", "--tool", "t2v", "--tool-version", "3.1", "--json")
        return run("import-scores", "scores.csv", *words)

    return scored


@pytest.mark.ci  # six commands, each of which reads catalogs
def test_bad_scores_are_named_by_their_row(
    run: Callable[..., Done], exported: Callable[[Sequence[tuple[str, str]]], Done], tmp_path: Path
) -> None:
    good = [(name, f"0.{place}") for place, name in enumerate(IDS)]
    refused(exported([*good, good[1]]), 4, f"line 6: found id '{IDS[1]}' twice")
    refused(exported([*good[:2], (IDS[2], "nan"), good[3]]), 4, "line 4", "'nan'")
    refused(exported([*good[:3], ("", "0.5")]), 4, "line 5: found no id")
    refused(exported([*good[:3], ("00000099-s0-k0", "0.5")]), 4, "line 5: id '00000099-s0-k0' is not in out/manifest.jsonl")
    refused(exported(good[:3]), 4, f"no value for 1 of 4 images, {IDS[3]} first")
    done = exported(good)
    assert done.code == 0 and json.loads(done.out)["metrics"]["vqascore"]["value"] == pytest.approx(0.15)
    picture, manifest = tmp_path / "out" / f"{IDS[2]}.png", tmp_path / "out" / "manifest.jsonl"
    kept = picture.read_bytes()
    picture.write_bytes((tmp_path / "out" / f"{IDS[1]}.png").read_bytes())  # scores of another image
    refused(exported(good), 4, f"image {IDS[2]} of the manifest", "export again")
    picture.write_bytes(kept)
    for place in (30, 120, 400):  # one byte, in the head and in a line
        content = bytearray(manifest.read_bytes())
        content[place] ^= 1
        manifest.write_bytes(content)
        assert exported(good).code in {2, 3, 4}, place
        content[place] ^= 1
        manifest.write_bytes(content)


def test_what_a_metric_lacks_is_exit_2_before_anything_runs(run: Callable[..., Done], shipped: Path) -> None:
    refused(
        run("eval", "--model", "sbv2-a", "--metrics", "fid,diversity"), 2, "found 1, metric diversity", "--images-per-prompt 4"
    )
    refused(
        run("eval", "--model", "sd21", "--metrics", "fid-t"), 2, "needs a teacher", "mini/sd21 does not have", "--metrics fid,"
    )
    refused(run("eval", "--model", "sbv2-a", "--metrics", "geneval"), 2, "scores that were imported")
    Path("manifest.csv").write_text("file,caption\na.png,one\n,two\n")
    Path("pictures").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (32, 32)).save(f"pictures/{name}.png")
    done = run("score", "--images", "pictures", "--prompts", "manifest.csv", "--reference", "none", "--metrics", "clip")
    refused(done, 4, "manifest.csv: line 3 names no file")
