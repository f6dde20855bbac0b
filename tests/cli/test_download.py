"""`download` and `eval --suite GROUP` as a user meets them, against a server on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from asset_server import CONTENT, SHA256, Server
from commands_in_process import Done, refused

from sbv2bench.data.caption_files import released_form
from sbv2bench.data.prompts import load_prompts
from sbv2bench.registry import Registry

CAPTIONS = ["one ", "two", "three"]


@pytest.fixture
def declared(server: Server, tmp_path: Path) -> Path:
    """A catalog of two assets at the server, one of them a caption list, and an extractor."""
    listed = released_form(CAPTIONS)
    assets = {
        "thing": {"filename": "thing.bin", "urls": [server.url], "sha256": SHA256, "bytes": len(CONTENT)},
        "captions": {"filename": "dataset.json", "urls": [], "sha256": hashlib.sha256(listed).hexdigest()},
    }
    extractors = {"net": {"kind": "a:B", "location": "asset:thing"}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"assets": assets, "extractors": extractors}))
    return path


def test_an_asset_by_its_name_and_by_whose_it_is(run: Callable[..., Done], declared: Path, own_home: Path) -> None:
    done = run("download", "thing", "--catalog", str(declared), "--json")
    assert done.code == 0
    (path,) = json.loads(done.out).values()
    assert Path(path).read_bytes() == CONTENT
    assert Path(path).is_relative_to(own_home)
    again = run("download", "net", "--catalog", str(declared), "--json")
    assert json.loads(again.out) == {"asset:thing": path}


def test_bad_names_and_bytes(run: Callable[..., Done], declared: Path, server: Server) -> None:
    refused(run("download", "thinng", "--catalog", str(declared)), 2, "thinng")
    server.content = CONTENT[:-1] + b"x"
    refused(run("download", "thing", "--catalog", str(declared)), 4, "found sha256", "sbv2bench download thing")
    refused(run("download", "captions", "--catalog", str(declared)), 3, "no URL is known", "--from")
    refused(run("download", "mini/sd21", "--from", "x"), 2, "not an asset")


def test_a_file_of_ones_own(run: Callable[..., Done], declared: Path, tmp_path: Path) -> None:
    coco: dict[str, Any] = {"images": [{"id": i} for i in range(3)]}
    coco["annotations"] = [{"id": i, "image_id": i, "caption": caption} for i, caption in enumerate(CAPTIONS)]
    good, bad = tmp_path / "annotations.json", tmp_path / "bad.json"
    good.write_text(json.dumps(coco))
    bad.write_text(json.dumps({**coco, "images": coco["images"][::-1]}))
    refused(run("download", "captions", "--from", str(bad), "--catalog", str(declared)), 4, "bad.json", "found sha256")
    done = run("download", "captions", "--from", str(good), "--catalog", str(declared), "--json")
    (path,) = json.loads(done.out).values()
    assert Path(path).read_bytes() == released_form(CAPTIONS)


def test_offline_lists_all_that_is_missing(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBV2BENCH_OFFLINE", "1")
    missing = (
        "offline",
        "asset:coco2014-captions",
        "asset:coco2014-val",
        "asset:inception-2015-12-05",
        "hub:laion/CLIP-ViT-g-14",
    )
    refused(run("download", "coco2014-30k"), 3, *missing, "sbv2bench download coco2014-30k")
    done = run("eval", "--suite", "coco2014-30k", "--model", "sd-turbo", "--dry-run")
    assert done.code == 3 and all(words in done.error() for words in missing)
    assert "plan for" in done.out  # what would be done is said all the same
    refused(run("download", "paper"), 3, "asset:hpsv2-prompts", "asset:hpsv2-v2.1", "sbv2bench download paper")
    assert "coco2014-30k and hpsv2 as one leaderboard row" in run("list", "suites").out


def test_prompts_of_a_benchmark_come_by_their_hash(
    run: Callable[..., Done], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As GenEval's: fetched once, checked, and read by the suite; offline without them it is exit 3, and says what to type."""
    lines = "".join(f"{json.dumps({'tag': 'colors', 'prompt': caption})}\n" for caption in CAPTIONS)
    server.content = lines.encode()
    digest = hashlib.sha256(server.content).hexdigest()
    asset = {"filename": "evaluation_metadata.jsonl", "urls": [server.url], "sha256": digest, "bytes": len(server.content)}
    suite = {"extends": "geneval-prompts", "num_generated": 3, "prompts": {"location": "asset:tasks"}, "metrics": ["geneval"]}
    (tmp_path / "sbv2bench.yaml").write_text(yaml.safe_dump({"assets": {"tasks": asset}, "suites": {"three": suite}}))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(run("download", "three"), 3, "evaluation_metadata.jsonl", "HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 sbv2bench download")
    assert server.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    done = run("download", "three", "--json")
    assert done.code == 0 and Path(json.loads(done.out)["asset:tasks"]).read_bytes() == server.content
    assert run("download", "three").code == 0 and len(server.requests) == 1
    shown = json.loads(run("show", "three", "--json").out)
    assert (shown["images_per_prompt"], shown["prompts"]["kind"]) == (4, "geneval")
    prompts = load_prompts(Registry.load().suite("three"), assets=Registry.load().assets)
    assert (prompts.captions, prompts.styles) == (tuple(CAPTIONS), ("colors",) * 3)
