"""Everything that reads what somebody else wrote, as a function of a file's bytes: it may refuse them in words, and nothing else.

READERS: name -> the function, called with bytes and an empty folder, and bytes that it takes, to be spoiled. Whatever it raises
that is no SBV2BenchError is a fault, and so is a hang.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import safetensors.numpy
import yaml
from PIL import Image
from sample_results import sample_result

from reference_trainer.recipe_files import read_recipe
from reference_trainer.training.checkpoint import verified
from sbv2bench.data import assets, caption_files
from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.caption_rows import read_rows
from sbv2bench.data.images import ImageFolder
from sbv2bench.data.own_captions import read_own_captions
from sbv2bench.errors import SBV2BenchError
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import KINDS, Registry
from sbv2bench.results import prompt_values, store
from sbv2bench.results.records import EvalResult
from sbv2bench.weights import load_adapter, load_state_dict

RESULTS = Path(__file__).parents[2] / "leaderboards" / "results" / "mini" / "sd21"
Read = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Reader:
    """read: the function. good: bytes that it takes. tree: a JSON or YAML document that stands for them, if they are one."""

    read: Read
    good: Callable[[], bytes]
    dumps: Callable[[object], str] | None = None

    def refuses_in_words(self, content: bytes, folder: Path) -> None:
        """Raises whatever is no error of the package."""
        try:
            self.read(content, folder)
        except SBV2BenchError as error:
            assert str(error)


def _written(name: str, read: Callable[[Path], object]) -> Read:
    def reads(content: bytes, folder: Path) -> object:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return read(path)

    return reads


@cache
def _built_in() -> Registry:
    return Registry.built_in()


@cache
def _sample() -> EvalResult:
    return sample_result()


def _catalog(path: Path) -> None:
    registry = dataclasses.replace(_built_in())
    for kind in KINDS:
        setattr(registry, f"{kind}s", dict(registry.table(kind)))
    registry.sources = dict(registry.sources)
    registry.add_user_catalog(path)
    for kind in ("model", "suite", "extractor", "metric"):
        for name in list(registry.table(kind))[-3:]:
            registry.show(name)


def _captions(path: Path) -> None:
    """All three readers of captions, of which each may refuse the file for itself."""
    for read in (read_own_captions, caption_files.all_captions, lambda given: list(read_rows(given, ("caption",)))):
        try:
            read(path)  # type: ignore[operator]
        except SBV2BenchError as error:
            assert str(error)


def _result(path: Path) -> None:
    if store.is_latency(path):
        store.path_of(store.load_latency(path))
        return
    result = store.load(path)
    store.path_of(result)
    store.dumps(result)


def _values(content: bytes, folder: Path) -> None:
    result, _ = prompt_values.attach(_sample(), {"clip_score": np.zeros((3, 4), np.float32)})
    result = result.model_copy(update={"suite": result.suite.model_copy(update={"num_generated": 4})})
    digest = hashlib.sha256(content).hexdigest()
    metrics = {k: v.model_copy(update={"prompt_values": v.prompt_values and digest}) for k, v in result.metrics.items()}
    path = folder / "result.json"
    prompt_values.path_beside(path).write_bytes(content)
    prompt_values.read(result.model_copy(update={"metrics": metrics}), path)


def _weights(path: Path) -> None:
    assets.hash_file(path)
    load_state_dict(path)


def _archive(path: Path) -> None:
    archive = ImageArchive(path)
    archive.content_sha256()
    archive.check_headers()
    archive.read(0, len(archive))


def _image(path: Path) -> None:
    images = ImageFolder(path.parent)
    images.read(0, len(images))


def _model_index(path: Path) -> None:
    (path.parent / "unet").mkdir(exist_ok=True)
    (path.parent / "unet" / "config.json").write_text("{}")
    (path.parent / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(_tensors())
    assets.hash_weights(path.parent)


def _adapter(path: Path) -> None:
    path.with_name("adapter_model.safetensors").write_bytes(_tensors())
    load_adapter(path.parent)


def _state(path: Path) -> None:
    tensors = path.with_name("student.safetensors")
    tensors.write_bytes(_tensors())
    path.write_bytes(path.read_bytes().replace(b"SHA", sha256_file(tensors).encode()))
    verified(path.parent, ("step",))


def _tensors() -> bytes:
    return safetensors.numpy.save({"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(1, np.int64)})


def _picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(out, kind)
    return out.getvalue()


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/0.png", _picture("PNG"))
        archive.writestr("a/1.jpg", _picture("JPEG"))
    return out.getvalue()


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in (("a/0.png", _picture("PNG")), ("a/1.jpg", _picture("JPEG"))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"caption": ["a cat", "a dog"], "file": ["0.png", "1.png"]}), out)
    return out.getvalue()


def _dumped(dump: Callable[[object], str], document: object) -> bytes:
    return dump(document).encode()


def _result_of(version: int) -> bytes:
    if version == 2:
        return store.dumps(_sample()).encode()
    paths = sorted(RESULTS.glob("mini-5k@v1/*.json"))
    return next(text for path in paths if b'"schema_version": 1' in (text := path.read_bytes()))


to_json = partial(json.dumps, ensure_ascii=True)
to_yaml = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True)
MODEL = {"sampler": "one_step", "steps": 1, "location": "model", "timestep": 999, "guidance_scale": 1.0, "resolution": 32}
CATALOG = {
    "models": {
        "local/mine": MODEL,
        "local/merged": {"sampler": "one_step", "merge": {"a": "mini/sbv2-a", "b": "x", "weight": 0.5}},
    },
    "suites": {"mine": {"extends": "mini-5k", "world_seed": 7, "num_generated": 30, "metrics": {"fid": {"extractor": "own"}}}},
    "extractors": {"own": {"kind": "open_clip", "location": "clip", "gives": "paired"}},
    "metrics": {"own": {"target": "a:b", "reads": "features", "extractor": "own", "keys": ["own"], "higher_is_better": True}},
    "assets": {"file": {"filename": "a.bin", "urls": ["https://example.org/a"], "sha256": "0" * 64, "bytes": 3, "licence": "x"}},
}
RECIPE = {"extends": "mini/sbv2-a", "name": "local/mine", "steps": 7, "student": {"learning_rate": 1e-4}, "seed": 3}
STATE = {"step": 3, "scalars": {}, "seconds": 1.5, "identity": {"recipe": {}}, "files": {"student.safetensors": "SHA"}}
INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "vae": [None, None]}
ADAPTER = {"r": 2, "lora_alpha": 4, "target_modules": ["to_q"], "peft_type": "LORA", "base_model_name_or_path": "../base"}
ROWS = [{"caption": "a cat", "file": "0.png"}, {"caption": "a dog", "file": "1.png"}]

READERS: dict[str, Reader] = {
    "catalog.yaml": Reader(_written("catalog.yaml", _catalog), partial(_dumped, to_yaml, CATALOG), to_yaml),
    "recipe.yaml": Reader(
        _written("recipe.yaml", lambda path: read_recipe(str(path))), partial(_dumped, to_yaml, RECIPE), to_yaml
    ),
    "sbv2bench.json": Reader(
        _written("model/sbv2bench.json", lambda path: _built_in().model(str(path.parent))),
        partial(_dumped, to_json, MODEL),
        to_json,
    ),
    "model_index.json": Reader(_written("model/model_index.json", _model_index), partial(_dumped, to_json, INDEX), to_json),
    "adapter_config.json": Reader(_written("lora/adapter_config.json", _adapter), partial(_dumped, to_json, ADAPTER), to_json),
    "state.json": Reader(_written("00000003/state.json", _state), partial(_dumped, to_json, STATE), to_json),
    "result-1.json": Reader(_written("20261122T100000Z-0a1b2c3d.json", _result), partial(_result_of, 1), to_json),
    "result-2.json": Reader(_written("20261122T100000Z-0a1b2c3d.json", _result), partial(_result_of, 2), to_json),
    "values.safetensors": Reader(_values, lambda: safetensors.numpy.save({"clip_score": np.zeros((3, 4), np.float32)})),
    "weights.safetensors": Reader(_written("model.safetensors", _weights), _tensors),
    "captions.txt": Reader(_written("captions.txt", _captions), lambda: b"a cat\na dog\n"),
    "captions.csv": Reader(_written("captions.csv", _captions), lambda: b'file,caption\n0.png,"a cat, sat"\n1.png,a dog\n'),
    "captions.jsonl": Reader(
        _written("captions.jsonl", _captions), lambda: "".join(f"{to_json(row)}\n" for row in ROWS).encode()
    ),
    "captions.json": Reader(
        _written("captions.json", _captions), partial(_dumped, to_json, {"labels": ["a cat", "a dog"]}), to_json
    ),
    "captions.parquet": Reader(_written("captions.parquet", _captions), _parquet),
    "images.zip": Reader(_written("images.zip", _archive), _zip),
    "images.tar": Reader(_written("images.tar", _archive), _tar),
    "images.tar.gz": Reader(_written("images.tar.gz", _archive), lambda: gzip.compress(_tar(), mtime=0)),
    "images.tar.bz2": Reader(_written("images.tar.bz2", _archive), lambda: bz2.compress(_tar())),
    "images.tar.xz": Reader(_written("images.tar.xz", _archive), lambda: lzma.compress(_tar())),
    **{
        f"image.{suffix}": Reader(_written(f"images/a.{suffix}", _image), partial(_picture, kind))
        for suffix, kind in (("png", "PNG"), ("jpg", "JPEG"), ("gif", "GIF"), ("tiff", "TIFF"), ("webp", "WEBP"), ("bmp", "BMP"))
    },
}
