"""Operations counted where they are known in closed form, the ceiling by a known clock, memory of a known size."""

from __future__ import annotations

import pytest
import torch
from fake_time import FakeClock

from sbv2bench.latency.arithmetic import CeilingProbe, flop_by_stage
from sbv2bench.latency.memory import memory_of, weights_bytes
from sbv2bench.samplers.base import Stopwatch

HEADS, TOKENS, WIDTH = 2, 16, 8
ATTENTION = 2 * 2 * HEADS * TOKENS * TOKENS * WIDTH  # q k' and its product with v
LINEAR, CONV = 2 * 3 * 4 * 8, 2 * 9 * 3 * 5 * 6 * 6


def linear() -> None:
    torch.nn.functional.linear(torch.ones(3, 4), torch.ones(8, 4))


def attention() -> None:
    query = torch.ones(1, HEADS, TOKENS, WIDTH)
    torch.nn.functional.scaled_dot_product_attention(query, query, query)


def conv() -> None:
    torch.nn.functional.conv2d(torch.ones(1, 3, 6, 6), torch.ones(5, 3, 3, 3), padding=1)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_operations_are_counted_by_stage(mode: type) -> None:
    def work(stopwatch: Stopwatch) -> None:
        with mode():
            with stopwatch.stage("text"):
                linear()
                attention()
            for _ in range(2):
                with stopwatch.stage("denoise"):
                    conv()

    assert flop_by_stage(work) == {"text": LINEAR + ATTENTION, "denoise": 2 * CONV}


def test_operations_of_a_sampler_that_marks_no_stage() -> None:
    assert flop_by_stage(lambda stopwatch: linear()) == {"whole": LINEAR}
    assert flop_by_stage(lambda stopwatch: None) == {}


def test_the_ceiling_is_the_fastest_look() -> None:
    clock = FakeClock(tick=0.001)
    probe = CeilingProbe("cpu", torch.float32, clock, sizes=(8, (1, 2, 4)))
    probe()
    first = probe.ceiling()
    assert first.matmul == pytest.approx(2 * 8**3 / 0.001)
    assert first.conv == pytest.approx(2 * 9 * 2 * 2 * 4 * 4 / 0.001)
    assert first.best == max(first.matmul, first.conv)
    clock.tick = 0.5
    probe()
    assert probe.ceiling() == first
    clock.tick = 0.0005
    probe()
    assert probe.ceiling().matmul == pytest.approx(2 * first.matmul)


def test_memory_of_a_call() -> None:
    found, method = memory_of(lambda: torch.ones(16 * 2**20).add_(1), "cpu")
    assert found is not None
    assert "RSS" in method
    if "earlier calls can hide" not in method:
        assert 60 * 2**20 < found < 200 * 2**20
        small, _ = memory_of(lambda: torch.ones(2**18).add_(1), "cpu")
        assert small is not None and small < found / 4


def test_weights_are_weighed_once() -> None:
    one, norm = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(2)
    shared = torch.nn.Linear(3, 4, bias=False).half()
    assert weights_bytes({"a": one, "b": one, "c": norm, "d": shared}) == 4 * (12 + 4) + 4 * 8 + 8 + 2 * 12
