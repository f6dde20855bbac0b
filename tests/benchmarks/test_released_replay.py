"""One evaluation against a replay of the released steps on the same images: the same numbers, in a fifth of the time.

Run with: pytest -m benchmark_gate --benchmark-enable -n 0 -s tests/benchmarks/test_released_replay.py

The networks are stand-ins that cost nothing, so what is timed is the rest after generating: PNGs, resizes, reading, distances.
With the real networks on a CPU their forward passes, the same in both, would hide it.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from metrics.test_paper_precision_recall import by_torch
from numpy.typing import NDArray
from paper_suites import GENERATED, write_paper_suites
from photographs import photograph, write_zip
from PIL import Image
from released_preparation import released_resize

from sbv2bench.data.images import ImageFolder
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.features.base import load_extractor
from sbv2bench.registry import Registry
from sbv2bench.results.records import EvalResult

pytestmark = pytest.mark.benchmark_gate
ROUNDS = 3
Images = NDArray[np.uint8]


def picture(seed: int) -> Images:
    """512 px: large patches as the photographs have, so that the sets overlap, and texture that a PNG must work for."""
    random = np.random.default_rng(seed)
    noise = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ((6, 8), (64, 64))]
    large, fine = (np.asarray(Image.fromarray(one).resize((512, 512), Image.Resampling.BICUBIC)) for one in noise)
    return np.clip(large + 0.25 * (fine - 128.0), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny suites of the paper, with generated images and photographs of the real sizes."""
    folder = write_paper_suites(tmp_path_factory.mktemp("paper")).parent
    for i in range(GENERATED):
        Image.fromarray(picture(i)).save(folder / "images" / f"{i:08d}.png")
    photographs = {
        f"COCO_val2014_{i:012d}.jpg": photograph(i, 640 - i, 480 + i % 5, "L" if i % 9 == 0 else "RGB") for i in range(50)
    }
    write_zip(folder / "val2014.zip", photographs)
    return folder


def read(folder: Path) -> list[Images]:
    """Every PNG of a folder, opened anew."""
    found = []
    for file in sorted(folder.glob("*.png")):
        with Image.open(file) as opened:
            found.append(np.asarray(opened.convert("RGB")))
    return found


def released_run(generated: Images, photographs: list[bytes], made: EvalPlan, folder: Path) -> dict[str, float]:
    """The released evaluation: a PNG of every image, a resize pass over both sets, and one reading of the PNGs a metric."""
    for name in ("generated", "small", "reference"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(generated):
        Image.fromarray(image).save(folder / "generated" / f"{i:08d}.png")
    for i, file in enumerate(sorted((folder / "generated").iterdir())):
        with Image.open(file) as opened:
            released_resize(opened).save(folder / "small" / f"{i:08d}.png")
    for i, content in enumerate(photographs):
        with Image.open(io.BytesIO(content)) as opened:
            released_resize(opened).save(folder / "reference" / f"{i:08d}.png")
    sets = folder / "small", folder / "reference"

    network = load_extractor(made.extractors["s-fid"])
    fake, real = (np.concatenate([network(image[None]) for image in read(each)]).astype(np.float64) for each in sets)
    covariances = [np.cov(rows, rowvar=False) for rows in (fake, real)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = fake.mean(axis=0) - real.mean(axis=0)
    fid = apart @ apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)

    network = load_extractor(made.extractors["s-pr"])  # the RGB one: here the pixels are turned round, as OpenCV reads them
    fake, real = (np.concatenate([network(image[None, :, :, ::-1]) for image in read(each)]) for each in sets)
    precision, recall = by_torch(fake, real, 3, 10_000)

    scorer = load_extractor(made.extractors["s-clip"])
    texts = scorer.embed_text(made.prompts.captions)  # type: ignore[attr-defined]
    cosines = [
        float(scorer.embed_images(image[None])[0] @ text)  # type: ignore[attr-defined]
        for image, text in zip(read(sets[0]), texts, strict=True)
    ]
    return {"fid": float(fid), "precision_paper": precision, "recall_paper": recall, "clip_score": float(np.mean(cosines))}


@pytest.mark.benchmark(timer=time.process_time)
def test_an_evaluation_against_the_released_steps(
    benchmark: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.load(place / "catalog.yaml")
    generated = np.stack([picture(i) for i in range(GENERATED)])
    photographs = [photograph(i, 640 - i, 480 + i % 5, "L" if i % 9 == 0 else "RGB") for i in range(50)]
    made = plan("made", "coco", EvalOptions.validated(), registry)
    monkeypatch.setattr(ImageFolder, "read", lambda self, start, stop, *_, **__: generated[start:stop])  # as if just generated

    def ours() -> EvalResult:
        return evaluate("made", "coco", registry=registry, use_cache=False)

    ours()  # imports
    seconds: dict[str, list[float]] = {"ours": [], "released": []}
    torch.set_num_threads(1)
    for number in range(ROUNDS):
        start = time.process_time()
        result = ours()
        middle = time.process_time()
        theirs = released_run(generated, photographs, made, tmp_path / str(number))
        seconds["ours"].append(middle - start)
        seconds["released"].append(time.process_time() - middle)
    benchmark.pedantic(ours, rounds=1)
    best = {name: min(times) for name, times in seconds.items()}
    benchmark.extra_info.update({f"cpu_s {name}": round(value, 3) for name, value in best.items()})
    found = {name: result.metrics[name].value for name in theirs}
    print(
        theirs,
        {name: round(value, 3) for name, value in best.items()},
        {name: abs(found[name] - theirs[name]) for name in theirs},
    )
    assert found["fid"] == pytest.approx(theirs["fid"], abs=1e-3)
    assert (found["precision_paper"], found["recall_paper"]) == (theirs["precision_paper"], theirs["recall_paper"])
    assert found["clip_score"] == pytest.approx(theirs["clip_score"], abs=1e-6)
    assert best["released"] >= 5 * best["ours"], best
