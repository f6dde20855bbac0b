"""The FID Inception: the same features as torch-fidelity's own implementation, resizes that are clean-fid's and TensorFlow
1's, and no weights but the ones that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from PIL import Image
from random_inception import State, write_random_inception
from safetensors.torch import save_file
from torchvision.transforms.functional import center_crop

from sbv2bench.data import extractor_files
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.features.base import load_extractor
from sbv2bench.features.inception import InceptionExtractor, clean299, clean299_by_products, patch299, tf1_299
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec


def images(count: int, height: int = 256, width: int = 256) -> np.ndarray:
    """Half noise, half a smooth ramp that differs by channel."""
    noise = np.random.default_rng(count).integers(0, 256, (count, height, width, 3))
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((noise + (x + 2 * y + 60 * c) % 256) // 2).astype(np.uint8)


def spec(location: Path, preparation: str = "tf1", **more: object) -> ExtractorSpec:
    fields = {"id": "tiny", "kind": "inception", "location": str(location), "preparation": preparation, **more}
    return ExtractorSpec.model_validate(fields)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    path = tmp_path_factory.mktemp("inception") / "model.safetensors"
    return path, write_random_inception(path)


@pytest.fixture(scope="module")
def oracle(weights: tuple[Path, State], tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """torch-fidelity's network with the same state dict; it resizes uint8 images by its own TF1 rule."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path_factory.mktemp("oracle") / "weights.pth"
    torch.save(weights[1], path)
    return module.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))


def fidelity(oracle: torch.nn.Module, batch: np.ndarray) -> np.ndarray:
    return oracle(torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))))[0].numpy()


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal to 1e-5 of the features' size; and they are features, not zeros or one vector for all."""
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    assert np.abs(theirs[0] - theirs[1]).max() > 0.01 * np.abs(theirs).max() > 0.001
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_tf1_equals_torch_fidelity(weights: tuple[Path, State], oracle: torch.nn.Module) -> None:
    extractor = InceptionExtractor(spec(weights[0]))
    assert_same(extractor(images(2)), fidelity(oracle, images(2)))


def test_clean299_without_resize_equals_torch_fidelity(weights: tuple[Path, State], oracle: torch.nn.Module) -> None:
    """299 px images pass both resizes unchanged, so this compares the network and the scaling alone."""
    extractor = InceptionExtractor(spec(weights[0], "clean299"))
    assert_same(extractor(images(2, 299, 299)), fidelity(oracle, images(2, 299, 299)))


def test_the_two_preparations_and_channel_orders_differ(weights: tuple[Path, State]) -> None:
    found = [InceptionExtractor(spec(weights[0], way))(images(1)) for way in ("clean299", "tf1")]
    found.append(InceptionExtractor(spec(weights[0], channels="bgr"))(images(1)))
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert np.abs(found[i] - found[j]).max() > 1e-3 * np.abs(found[i]).max()
    backwards = np.ascontiguousarray(images(1)[..., ::-1])
    assert np.array_equal(found[2], InceptionExtractor(spec(weights[0]))(backwards))


@pytest.mark.parametrize(("height", "width"), [(256, 256), (299, 299), (512, 512), (64, 100), (427, 640)])
def test_clean_resize_is_clean_fids(height: int, width: int) -> None:
    resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    theirs = np.stack([resize(image) for image in images(2, height, width)]).transpose(0, 3, 1, 2)
    ours = clean299(images(2, height, width))
    assert ours.dtype == torch.float32
    assert np.array_equal(ours.numpy(), theirs)
    pixels = torch.from_numpy(images(2, height, width)).permute(0, 3, 1, 2).float()
    np.testing.assert_allclose(clean299_by_products(pixels).numpy(), theirs, rtol=0, atol=1.5e-4)
    if (height, width) == (299, 299):
        assert np.array_equal(ours.numpy(), images(2, 299, 299).transpose(0, 3, 1, 2))


# I[y, x, c] = (7 x + 13 y + 50 c + x y // 5) mod 256, cropped, resized to 256 by Lanczos, then clean299
SYNTHETIC = [
    ((640, 480), (80, 0, 480), (133.0242, 130.3911, 125.1167)),
    ((640, 427), (106, 0, 427), (117.6263, 99.8182, 106.3297)),
    ((640, 425), (108, 0, 425), (100.8502, 100.3945, 116.1858)),
    ((425, 640), (0, 108, 425), (121.8543, 133.8532, 153.4959)),
    ((512, 512), (0, 0, 512), (137.8315, 130.0458, 111.4791)),
    ((500, 375), (62, 0, 375), (82.6389, 83.0814, 152.1623)),
]


@pytest.mark.parametrize(("size", "crop", "pixel"), SYNTHETIC)
def test_clean_resize_of_the_synthetic_images(
    size: tuple[int, int], crop: tuple[int, int, int], pixel: tuple[float, float, float]
) -> None:
    y, x, c = np.meshgrid(np.arange(size[1]), np.arange(size[0]), np.arange(3), indexing="ij")
    image = Image.fromarray(((7 * x + 13 * y + 50 * c + x * y // 5) % 256).astype(np.uint8))
    left, top, side = crop
    small = image.crop((left, top, left + side, top + side)).resize((256, 256), Image.Resampling.LANCZOS)
    assert clean299(np.asarray(small)[None])[0, :, 150, 150].tolist() == pytest.approx(pixel, abs=1e-4)


@pytest.mark.parametrize("value", [0, 37, 255])
def test_constant_images_stay_constant(value: int) -> None:
    for resize in (clean299, tf1_299):
        found = resize(np.full((1, 256, 256, 3), value, np.uint8))
        assert found.shape == (1, 3, 299, 299)
        assert (found - value).abs().max() < 1e-4


@pytest.mark.parametrize(("height", "width"), [(256, 256), (299, 299), (32, 32), (100, 64), (640, 400)])
def test_tf1_resize_is_torch_fidelitys(height: int, width: int) -> None:
    rule = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
    batch = images(2, height, width)
    pixels = torch.from_numpy(batch.transpose(0, 3, 1, 2).astype(np.float32))
    assert torch.equal(tf1_299(batch), rule(pixels, (299, 299), align_corners=False))


def test_tf1_resize_by_hand() -> None:
    """A ramp of 2 grey levels a pixel: out[j] = 2 j 100/299 up to the last pixel; PIL's is half a pixel and more from it."""
    ramp = np.broadcast_to((2 * np.arange(100, dtype=np.uint8))[None, :, None], (100, 100, 3))
    row = tf1_299(ramp[None])[0, 0, 0].numpy()
    expected = np.minimum(2 * np.arange(299) * 100 / 299, 198)
    np.testing.assert_allclose(row, expected, atol=1e-4)
    assert row[0] == 0
    pil = np.asarray(Image.fromarray(ramp).resize((299, 299), Image.Resampling.BILINEAR))[0, :, 0]
    assert 0.4 < np.abs(row - pil)[5:-5].max() < 2.0


@pytest.mark.parametrize("wrong", [images(1).astype(np.float32), images(1)[0], images(1)[..., :1]])
@pytest.mark.parametrize("resize", [clean299, tf1_299])
def test_resizes_take_uint8_rgb_batches_only(resize: object, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        resize(wrong)  # type: ignore[operator]


def test_batch_counters_may_be_missing(weights: tuple[Path, State], tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file({name: value for name, value in weights[1].items() if not name.endswith("num_batches_tracked")}, path)
    assert np.array_equal(InceptionExtractor(spec(path))(images(1)), InceptionExtractor(spec(weights[0]))(images(1)))


@pytest.mark.parametrize("damage", ["half the keys", "another shape", "an extra key", "cut"])
def test_other_weights_are_refused(weights: tuple[Path, State], tmp_path: Path, damage: str) -> None:
    state, path = dict(weights[1]), tmp_path / "model.safetensors"
    if damage == "half the keys":
        state = dict(list(state.items())[: len(state) // 2])
    elif damage == "another shape":
        state["fc.weight"] = state["fc.weight"][:1000].clone()
    elif damage == "an extra key":
        state["AuxLogits.fc.weight"] = torch.zeros(2)
    save_file(state, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError) as caught:
        InceptionExtractor(spec(path))
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_pickles_only_by_their_hash(weights: tuple[Path, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown pickle is refused before it is read; the well-known one is read without the flag, as tensors only."""
    path = tmp_path / "pt_inception.pth"
    torch.save(weights[1], path)
    monkeypatch.delenv("SBV2BENCH_ALLOW_PICKLE", raising=False)
    with pytest.raises(IntegrityError, match="not a well-known file") as caught:
        InceptionExtractor(spec(path))
    assert "SBV2BENCH_ALLOW_PICKLE=1" in str(caught.value)
    monkeypatch.setitem(extractor_files.WELL_KNOWN, sha256_file(path), path.name)
    same = InceptionExtractor(spec(path))(images(1))
    assert np.array_equal(same, InceptionExtractor(spec(weights[0]))(images(1)))

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("harm",)

    torch.save({"fc.weight": Harm()}, path)
    monkeypatch.setitem(extractor_files.WELL_KNOWN, sha256_file(path), path.name)
    with pytest.raises(IntegrityError, match="not a whole weights file"):
        InceptionExtractor(spec(path))


def test_built_in_ids(tmp_path: Path) -> None:
    """Four extractors of one checksummed file; by the fields that change a number none equals another."""
    registry = Registry.load()
    found = [registry.extractor(f"inception-2015-{name}") for name in ("clean299", "tf1", "tf1-bgr", "patch299")]
    assert {one.location for one in found} == {"asset:inception-2015-12-05"}
    assert len({one.model_copy(update={"id": "same", "label": ""}).fingerprint() for one in found}) == 4
    for one in found:
        with pytest.raises(PrerequisiteError, match=r"inception-2015-12-05") as caught:
            load_extractor(one)
        assert caught.value.fix is not None
        assert "sbv2bench download inception-2015-12-05" in caught.value.fix


def test_a_preparation_must_be_said(weights: tuple[Path, State]) -> None:
    with pytest.raises(InputError, match="expected clean299, tf1 or patch299"):
        InceptionExtractor(spec(weights[0], ""))


@pytest.mark.parametrize(("height", "width"), [(299, 299), (300, 302), (301, 305), (512, 512), (1024, 768), (427, 640)])
def test_a_patch_is_torchvisions_crop_of_the_centre(height: int, width: int) -> None:
    """DMD2: center_crop(299) of a PIL image, then clean-fid's resize to 299, which changes nothing; odd margins included."""
    batch = images(2, height, width)
    crops = [np.asarray(center_crop(Image.fromarray(image), [299, 299])) for image in batch]
    theirs = np.stack([build_resizer("clean")(crop) for crop in crops]).transpose(0, 3, 1, 2)
    found = patch299(batch)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), theirs)


@pytest.mark.parametrize(("height", "width"), [(298, 640), (640, 200), (100, 100)])
def test_a_photograph_too_small_for_a_patch_is_resized_whole(height: int, width: int) -> None:
    assert torch.equal(patch299(images(2, height, width)), clean299(images(2, height, width)))


def test_patches_are_an_extractor_that_refuses_small_images_of_models(
    weights: tuple[Path, State], oracle: torch.nn.Module
) -> None:
    extractor = InceptionExtractor(spec(weights[0], "patch299"))
    crop = np.ascontiguousarray(images(2, 512, 400)[:, 106:405, 50:349])  # margins 213 and 101: round(106.5), round(50.5)
    assert_same(extractor(images(2, 512, 400)), fidelity(oracle, crop))
    assert (extractor.smallest_side, InceptionExtractor(spec(weights[0])).smallest_side) == (299, 1)
