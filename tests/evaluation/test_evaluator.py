"""A model that somebody else samples: the same bits as the command's, on one process and on two, and what is refused."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from running import block_of, run
from tiny_suite import BLOCK, GENERATED

import sbv2bench
from sbv2bench import paths
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation.evaluator import Evaluator
from sbv2bench.evaluation.rows import Rows
from sbv2bench.machine.processes import Processes
from sbv2bench.registry import Registry
from sbv2bench.results.records import EvalResult
from sbv2bench.samplers.base import Images, PromptBlock, Sampler, Stopwatch, generators, image_seed, initial_noise
from sbv2bench.specs import MetricSpec


@pytest.fixture(scope="module")
def sampler(registry: Registry) -> Sampler:
    return sbv2bench.load_model("local/student", registry=registry)


def drawn(sampler: Sampler, block: PromptBlock) -> Images:
    return sampler.generate(block, Stopwatch())


def measured(sampler: Sampler, registry: Registry, **keywords: Any) -> EvalResult:
    evaluator = Evaluator("tiny", registry=registry, device="cpu", **keywords)
    for block in evaluator.blocks():
        evaluator.update(block, drawn(sampler, block))
    return evaluator.compute()


def test_a_model_in_memory_has_the_numbers_of_the_command(registry: Registry, sampler: Sampler) -> None:
    """By name too: `sbv2bench.Evaluator`. Two seeds, and images without the padding of the last block."""
    assert sbv2bench.Evaluator is Evaluator
    threads = torch.get_num_threads()
    found = measured(sampler, registry, repeats=2)
    assert torch.get_num_threads() == threads
    expected = run(registry, "student", repeats=2, use_cache=False)
    stripped = [block_of(result).replace("the model's text_encoder", "") for result in (found, expected)]
    for key, value in found.metrics.items():
        assert value.model_copy(update={"details": None}) == expected.metrics[key].model_copy(update={"details": None}), key
    assert len(stripped[0]) > 0
    assert (found.suite, found.status, found.model.id) == (expected.suite, "complete", "local/in-memory")
    assert found.conditions.device == "cpu" and "latency_ms" not in found.metrics
    evaluator = Evaluator("tiny", "fid", registry=registry, device="cpu")
    for block in evaluator.blocks():
        evaluator.update(block, drawn(sampler, block)[: block.count])
    assert evaluator.compute().metrics["fid"].value == run(registry, "student", metrics="fid").metrics["fid"].value


def test_a_block_has_captions_and_its_own_noise(registry: Registry) -> None:
    blocks = list(Evaluator("tiny", "clip", registry=registry, seed=3, device="cpu").blocks())
    assert [len(block.captions) for block in blocks] == [BLOCK] * 5
    noise = blocks[1].noise((4, 2, 2))
    assert noise.shape == (BLOCK, 4, 2, 2) and noise.dtype == torch.float32
    index = blocks[1].first + 2
    assert torch.equal(noise[2:3], initial_noise(generators([image_seed(3, index)]), (4, 2, 2)))


class Two:
    """The processes of a torchrun of two, one after the other in this one: rank 1's parts wait for rank 0."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def rank(self, number: int) -> Processes:
        outer = self

        class Rank(Processes):
            def gather(self, value: Any) -> list[Any]:
                if self.rank:
                    outer.sent.append(value)
                    return []
                return [value, outer.sent.pop(0)]

            def broadcast(self, value: Any) -> Any:
                return value

        return Rank(number, 2)


def test_two_processes_give_the_same_bits(registry: Registry, sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)  # bits are promised for the same threads per process
    alone, two, found = measured(sampler, registry), Two(), None
    shutil.rmtree(paths.features_dir())  # both measure their share of the reference
    for rank in (1, 0):
        monkeypatch.setattr("sbv2bench.evaluation.evaluator.joined_processes", lambda rank=rank: two.rank(rank))
        evaluator = Evaluator("tiny", registry=registry, device="cpu")
        mine = list(evaluator.blocks())
        assert [block.index for block in mine] == [number for number in range(5) if number % 2 == rank]
        for block in mine:
            evaluator.update(block, drawn(sampler, block))
        found = evaluator.compute()
    assert found is not None and block_of(found) == block_of(alone)


def test_ranks_that_are_named_share_the_blocks(registry: Registry, sampler: Sampler) -> None:
    evaluator = Evaluator("tiny", "clip", registry=registry, device="cpu")
    parts = [[block.index for block in evaluator.blocks(rank, 3)] for rank in range(3)]
    assert parts == [[0, 3], [1, 4], [2]]
    with pytest.raises(InputError, match="rank 3 of 3"):
        list(evaluator.blocks(3, 3))
    for rank in (2, 0, 1):  # one process may also take all parts, in any order
        for block in evaluator.blocks(rank, 3):
            evaluator.update(block, drawn(sampler, block))
    assert evaluator.compute().metrics["clip_score"].value == run(registry, "student").metrics["clip_score"].value


def test_images_that_are_missing_or_wrong_are_refused(registry: Registry, sampler: Sampler) -> None:
    evaluator = Evaluator("tiny", "fid", registry=registry, device="cpu")
    first, *others = evaluator.blocks()
    images = drawn(sampler, first)
    for wrong in (images.astype(np.float32), images[:2], images[..., :1], images[0]):
        with pytest.raises(InputError, match=rf"images: found .*, expected uint8 \[{BLOCK}, height, width, 3\]"):
            evaluator.update(first, wrong)
    with pytest.raises(InputError, match="found images of 16 px, expected 32 px"):
        evaluator.update(first, images[:, ::2, ::2])
    for block in others:
        evaluator.update(block, drawn(sampler, block))
    with pytest.raises(IntegrityError, match=f"found images of {GENERATED - BLOCK} captions, expected each of {GENERATED} once"):
        evaluator.compute()


def test_latency_cannot_be_measured_of_a_model_in_memory(registry: Registry) -> None:
    assert [metric.id for metric in Evaluator("mini", device="cpu").plan.metrics][-1] == "attributes"
    with pytest.raises(InputError, match="latency"):
        Evaluator("mini", "fid,latency", device="cpu")


def spread(rows: Rows) -> dict[str, Any]:
    """How far the images of a caption are apart."""
    from sbv2bench.results.records import MetricValue

    assert rows.generated is not None and rows.images_per_prompt == 3
    by_caption = rows.generated.reshape(len(rows.captions), 3, -1)
    return {"spread": MetricValue(value=float(np.abs(by_caption - by_caption[:, :1]).mean()), label="spread")}


@pytest.mark.ci
def test_a_metric_of_several_images_a_caption_changes_no_other(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images beyond the first are measured for it alone; the first are those of a run without it, from the cache too."""
    own = MetricSpec(
        id="spread", target=f"{__name__}:spread", keys=("spread",), reads="features", extractor="tiny-clip",
        images_per_prompt=3, higher_is_better=True,
    )  # fmt: skip
    monkeypatch.setitem(registry.metrics, "spread", own)
    before = run(registry, "student")
    found = run(registry, "student", metrics="fid,pr,kid,clip,hps,attributes,spread", images_per_prompt=3)
    assert {key: value for key, value in found.metrics.items() if key != "spread"} == before.metrics
    assert found.metrics["spread"].value > 0 and found.metrics["spread"].n_generated == 3 * GENERATED
    assert found.suite.images_per_prompt == 3
    assert found.provenance["cache"]["generated"] == "resumed"  # the first images were there
    with pytest.raises(InputError, match="found 1, metric spread needs at least 3 images of each caption"):
        run(registry, "student", metrics="spread")
    assert found.protocol("spread")["images_per_prompt"] == 3 and found.protocol("fid")["images_per_prompt"] == 1
    assert image_seed(5, 7, 0) == image_seed(5, 7) != image_seed(5, 7, 1)
