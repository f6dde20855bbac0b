"""Image regularisation: pairs are what they say, are made once, and are the student's business through the decoder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_recipe import PAIRED, make_trainer, take_steps

from reference_trainer import latent_shards
from reference_trainer.latent_shards import all_latents
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch


def test_a_pairs_input_leads_the_teacher_to_its_latents(family: Path) -> None:
    """The stored latents, decoded, are the images that sbv2bench's own sampler makes of the regenerated noise."""
    trainer, _ = make_trainer(family, regularisation=PAIRED | {"teacher_steps": 3, "teacher_guidance_scale": 2.0})
    pairs, networks = trainer.pairs, trainer.networks
    captions, z, target = pairs.batch(0, [0, 1])
    spec = networks.teacher_spec.model_copy(
        update={"sampler": "multi_step", "scheduler": "ddim", "steps": 3, "guidance_scale": 2.0, "unstated": ()}
    )
    sampler = load_sampler(spec, "cpu", torch.float32)
    from sbv2bench.samplers import components

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "initial_noise", lambda rngs, shape: z)
        images = sampler.generate(PromptBlock(0, 0, 2, tuple(captions), (1, 2)), Stopwatch())
    decoded = networks.components.decode(target)
    assert np.abs(images.astype(int) - decoded.astype(int)).max() <= 1  # the latents are kept in float16


def test_pairs_are_made_once_and_shared_by_seeds(family: Path, own_home: Path) -> None:
    make_trainer(family, regularisation=PAIRED)
    (folder,) = (own_home / "pairs").iterdir()
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    make_trainer(family, regularisation=PAIRED | {"weight": 1.0}, seed=9)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} == written
    make_trainer(family, regularisation=PAIRED | {"teacher_steps": 3})
    assert len(list((own_home / "pairs").iterdir())) == 2


def test_pairs_are_the_same_whatever_decodes_them(family: Path, tmp_path: Path, own_home: Path) -> None:
    shutil.copytree(family, tmp_path / "other")
    counts = []
    for part in ("vae", "unet"):
        file = tmp_path / "other" / "teacher" / part / "diffusion_pytorch_model.safetensors"
        save_file({name: 0.9 * weight for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
        make_trainer(family, regularisation=PAIRED)
        make_trainer(family, teacher=str(tmp_path / "other" / "teacher"), regularisation=PAIRED)
        counts.append(len(list((own_home / "pairs").iterdir())))
    assert counts == [1, 2]


def test_the_paired_loss_pulls_the_student_to_the_teachers_images(family: Path) -> None:
    warm_up = {
        "vsd": None,
        "lora_teacher": None,
        "regularisation": PAIRED | {"distance": "latents", "weight": 1.0, "batch_size": 4},
    }
    trainer, _ = make_trainer(family, steps=40, **warm_up)
    figures = [step["regularisation_loss"] for step in take_steps(trainer, 40)]
    assert np.mean(figures[-5:]) < 0.7 * np.mean(figures[:5])


def test_real_images_of_a_folder_and_of_the_world(family: Path, tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(np.full((40, 50, 3), 60 * n, np.uint8)).save(tmp_path / f"{n}.png")
        (tmp_path / f"{n}.txt").write_text(f"picture {n}\n")
    for images, first in ((str(tmp_path), "picture"), ("world:training", "a")):
        trainer, _ = make_trainer(family, regularisation=PAIRED | {"kind": "real", "images": images, "pairs": 3})
        captions, z, target = trainer.pairs.batch(0, [0, 1])
        assert captions[0].split()[0] in {first, "an"}
        alpha, sigma = trainer.networks.alpha_T, trainer.networks.sigma_T
        assert float(((z - alpha * target) / sigma).std()) == pytest.approx(1.0, abs=0.1)
        assert not torch.equal(z, trainer.pairs.batch(1, [0, 1])[1])
        take_steps(trainer, 1)
    (tmp_path / "2.txt").unlink()
    with pytest.raises(InputError, match=r"2\.png has no caption"):
        make_trainer(family, regularisation=PAIRED | {"kind": "real", "images": str(tmp_path), "pairs": 3})
    with pytest.raises(InputError, match="is no folder"):
        make_trainer(family, regularisation=PAIRED | {"kind": "real", "images": "nowhere"})


def test_a_blank_caption_and_a_cut_picture_are_named(family: Path, tmp_path: Path) -> None:
    real = {"regularisation": PAIRED | {"kind": "real", "images": str(tmp_path), "pairs": 2}}
    for n in range(2):
        noise = np.random.default_rng(n).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{n}.png")
        (tmp_path / f"{n}.txt").write_text(f"picture {n}\n")
    (tmp_path / "1.txt").write_text(" \n")
    with pytest.raises(IntegrityError, match=r"1\.txt is blank, expected the caption of 1\.png"):
        make_trainer(family, **real)
    (tmp_path / "1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"1\.txt cannot be read as UTF-8"):
        make_trainer(family, **real)
    (tmp_path / "1.txt").write_text("picture 1")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match=r"1\.png: the image is broken or cut"):
        make_trainer(family, **real)


def test_another_picture_under_the_same_name_is_another_pair(family: Path, tmp_path: Path) -> None:
    real = {"regularisation": PAIRED | {"kind": "real", "images": str(tmp_path), "pairs": 1}}
    (tmp_path / "0.txt").write_text("a picture")
    latents = []
    for grey in (0, 200):
        Image.fromarray(np.full((40, 40, 3), grey, np.uint8)).save(tmp_path / "0.png")
        latents.append(make_trainer(family, **real)[0].pairs.batch(0, [0])[2])
    assert not torch.equal(*latents)


@pytest.mark.ci
@pytest.mark.parametrize(("micro_batch_size", "most"), [(3, 3), (None, 8)])
@pytest.mark.parametrize("kind", ["paired", "real"])
def test_no_pass_is_larger_than_trainings(
    family: Path, monkeypatch: pytest.MonkeyPatch, kind: str, micro_batch_size: int | None, most: int
) -> None:
    """Latents of 20 pairs, counted by the rows that the teacher's UNet or autoencoder is given at once."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    network, method = (UNet2DConditionModel, "forward") if kind == "paired" else (AutoencoderKL, "encode")
    original, rows = getattr(network, method), []

    def counted(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(x))
        return original(self, x, *args, **kwargs)

    monkeypatch.setattr(network, method, counted)
    images = "world:training" if kind == "real" else ""
    settings = PAIRED | {"kind": kind, "images": images, "pairs": 20, "teacher_guidance_scale": 2.0}
    make_trainer(family, regularisation=settings, micro_batch_size=micro_batch_size)
    guided = 2 if kind == "paired" else 1
    assert max(rows) == guided * most
    assert sum(rows) == guided * 20 * (PAIRED["teacher_steps"] if kind == "paired" else 1)


def test_micro_batches_change_rounding_alone(family: Path, own_home: Path) -> None:
    settings = PAIRED | {"pairs": 10, "teacher_guidance_scale": 2.0}
    targets = []
    for size in (1, 10):
        trainer, _ = make_trainer(family, regularisation=settings, micro_batch_size=size)
        targets.append(trainer.pairs.batch(0, list(range(2)))[2])
        for path in (own_home / "pairs").rglob("*.safetensors"):
            path.unlink()
    assert torch.allclose(*targets, rtol=2e-3, atol=2e-3)


def test_bfloat16_pairs_are_made_and_kept_apart(family: Path, own_home: Path) -> None:
    for changes in ({}, {"precision": "bfloat16", "teacher_dtype": "bfloat16"}):
        for kind in ({}, {"kind": "real", "images": "world:training", "pairs": 3}):
            trainer, _ = make_trainer(family, regularisation=PAIRED | kind, **changes)
            assert trainer.pairs.batch(0, [0])[2].isfinite().all()
    assert len(list((own_home / "pairs").iterdir())) == 4


SHAPE = (2, 3, 3)


def numbered(numbers: Sequence[int]) -> torch.Tensor:
    """Latents that say which pair they are of."""
    return torch.tensor(list(numbers), dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, *SHAPE)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """Each shard is made once, by whoever comes first, and nobody waits while there is one that nobody has begun."""
    monkeypatch.setattr(latent_shards, "SHARD", 5)
    monkeypatch.setattr(latent_shards, "_POLL", 0.01)
    made: dict[int, list[int]] = {process: [] for process in range(processes)}
    found, told = {}, []

    def process(number: int) -> None:
        def make(numbers: Sequence[int]) -> torch.Tensor:
            time.sleep(0.03)
            made[number] += numbers
            return numbered(numbers)

        def progress(done: int, count: int) -> None:
            if number == 0:
                told.append(done)

        found[number] = all_latents(tmp_path / "pairs", 118, SHAPE, make, at_once=3, progress=progress)

    threads = [threading.Thread(target=process, args=(number,)) for number in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for numbers in made.values() for number in numbers) == list(range(118))
    share = 118 / processes
    assert all(0.6 * share <= len(numbers) <= 1.4 * share for numbers in made.values())
    for latents in found.values():
        assert torch.equal(latents, numbered(range(118)).half())
    assert told[-1] == 118 and told == sorted(told)


KILLED = """
import pathlib, sys, time
from reference_trainer import latent_shards
def make(numbers):
    folder = pathlib.Path(sys.argv[1])
    (folder / "00000000.part").write_bytes(b"half")
    (folder / "begun").touch()
    time.sleep(60)
latent_shards.all_latents(pathlib.Path(sys.argv[1]), 6, (2, 3, 3), make, at_once=4, progress=print)
"""


def test_what_a_killed_process_had_begun_is_made_anew(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    waiting = threading.Timer(0.5, lambda: os.kill(process.pid, signal.SIGKILL))
    waiting.start()
    began = time.monotonic()
    latents = all_latents(tmp_path, 6, SHAPE, numbered, at_once=4, progress=lambda done, count: None)
    assert time.monotonic() - began > 0.3  # while it lived, the shard was its own
    process.wait()
    assert torch.equal(latents, numbered(range(6)).half())
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("damage", ["cut", "fewer", "shape", "nan", "other"])
def test_a_broken_shard_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(latent_shards, "SHARD", 4)
    calls: list[int] = []

    def make(numbers: Sequence[int]) -> torch.Tensor:
        calls.extend(numbers)
        return numbered(numbers)

    def latents() -> torch.Tensor:
        return all_latents(tmp_path, 6, SHAPE, make, at_once=2, progress=lambda done, count: None)

    latents()
    calls.clear()
    path = tmp_path / "00000000.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        whole = load_file(path)["latents"]
        wrong = {"fewer": whole[:3], "shape": whole[:, :1], "nan": whole * float("nan"), "other": whole}[damage]
        save_file({"else" if damage == "other" else "latents": wrong.contiguous()}, path)
    assert torch.equal(latents(), numbered(range(6)).half())
    assert calls == [0, 1, 2, 3]
    assert torch.equal(load_file(path)["latents"], numbered(range(4)).half())


def test_latents_that_are_not_finite_are_refused_and_not_kept(tmp_path: Path) -> None:
    def make(numbers: Sequence[int]) -> torch.Tensor:
        return numbered(numbers) * (1e5 if 3 in numbers else 1.0)

    with pytest.raises(IntegrityError, match=r"pair 2 that are not finite in float16"):
        all_latents(tmp_path, 4, SHAPE, make, at_once=2, progress=lambda done, count: None)
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.part"))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written") as caught:
        all_latents(tmp_path / "file" / "pairs", 4, SHAPE, numbered, at_once=2, progress=lambda done, count: None)
    assert caught.value.fix is not None and "SBV2BENCH_HOME=" in caught.value.fix

    def full(_: object, path: Path, **_more: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(latent_shards, "save_file", full)
    with pytest.raises(IntegrityError, match="No space left"):
        all_latents(tmp_path / "pairs", 4, SHAPE, numbered, at_once=2, progress=lambda done, count: None)
    assert not list((tmp_path / "pairs").glob("*.part"))
