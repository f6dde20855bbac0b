"""The architectures of paper scale, whole, with random weights: minutes and gigabytes, so `-m slow`.

Time and peak memory of one process each are printed: `pytest -m slow -s tests/features/test_real_architectures.py`.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sbv2bench.features.clip import OpenClipScorer
from sbv2bench.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
CAPTIONS = ["A man with a red helmet on a small moped on a dirt road. ", "two dogs"]


def random_state(architecture: str) -> dict[str, torch.Tensor]:
    """float16 tensors by the names and shapes of an architecture, drawn without building it."""
    config = open_clip.get_model_config(architecture)
    with torch.device("meta"):
        shapes = open_clip.CLIP(**config).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in shapes.items():
        if value.ndim > 1:
            state[name] = (torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5).half()
        else:
            start = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            state[name] = torch.full(value.shape, start, dtype=torch.float16)
    return state


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Iterator[None]:
    start = time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{request.node.name}: {time.process_time() - start:.0f} s of processor time, peak memory {peak:.1f} GiB")


def check(scorer: OpenClipScorer, pixels: torch.Tensor, images: np.ndarray) -> None:
    """Unit embeddings of 1024 that tell images and captions apart; those of images are the model's own of these pixels."""
    assert {parameter.dtype for parameter in scorer.model.parameters()} == {torch.float32}
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(scorer.model.encode_image(pixels), dim=-1).numpy()
    of_images, of_texts = scorer.embed_images(images), scorer.embed_text(CAPTIONS)
    np.testing.assert_allclose(of_images, expected, rtol=0, atol=1e-5)
    for embeds in (of_images, of_texts):
        assert embeds.shape == (2, 1024)
        np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1.0, atol=1e-5)
        assert np.abs(embeds[0] - embeds[1]).max() > 1e-3


@pytest.mark.usefixtures("measured")
def test_vit_g_14_from_a_folder_as_the_hub_has_it(tmp_path: Path) -> None:
    """clip-vit-g-14-laion2b: 1.4 G parameters; 256 px images go through open_clip's own transform."""
    save_file(random_state("ViT-g-14"), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_clip.get_model_config("ViT-g-14")}))
    spec = Registry.load().extractor("clip-vit-g-14-laion2b").model_copy(update={"location": str(tmp_path)})
    scorer = OpenClipScorer(spec)
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    transform = open_clip.image_transform(224, is_train=False)  # CLIP's mean and deviation are its defaults
    check(scorer, torch.stack([transform(Image.fromarray(image)) for image in images]), images)


@pytest.mark.usefixtures("measured")
def test_vit_h_14_from_hpsv2s_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hpsv2-v2.0: a pickle of 2 GB whose `state_dict` is the whole ViT-H-14 in float16; 512 px images."""
    from torchvision.transforms import functional

    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    torch.save({"state_dict": random_state("ViT-H-14")}, tmp_path / "HPS_v2_compressed.pt")
    spec = Registry.load().extractor("hpsv2-v2.0").model_copy(update={"location": str(tmp_path)})
    scorer = OpenClipScorer(spec)
    images = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    small = functional.resize(pixels, 224, functional.InterpolationMode.BICUBIC, antialias=True)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    check(scorer, functional.normalize(small, mean, std), images)
