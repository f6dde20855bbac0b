"""The command's work: exact numbers on a known clock, true ones on tiny models, and what may go wrong on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import yaml
from fake_time import FakeClock, TimedSampler
from tiny_models import write_tiny_pipeline

from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.latency import measure as latency
from sbv2bench.latency.arithmetic import CeilingProbe
from sbv2bench.latency.plan import LatencyOptions, LatencyPlan, plan_latency
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.results.records import LatencyProtocol, LatencyResult
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.specs import ModelSpec

QUICK = LatencyProtocol(id="full", warm_up=1, runs=1, repeats=2, statistic="median")
MEAN = LatencyProtocol(id="paper", warm_up=1, runs=2, repeats=2, statistic="mean")
STAGES = {"text": 0.001, "denoise": 0.005, "decode": 0.003}


@pytest.fixture(autouse=True)
def small_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that take no time; how fast they are is nobody's question here."""
    small = lambda device, dtype, clock: CeilingProbe(device, dtype, clock, sizes=(64, (1, 4, 8)))  # noqa: E731
    monkeypatch.setattr(latency, "CeilingProbe", small)


@dataclass
class FakeRun:
    """A plan whose models let a clock pass. samplers: they, by id."""

    plan: LatencyPlan
    clock: FakeClock
    samplers: dict[str, TimedSampler]

    def __call__(self) -> list[LatencyResult]:
        return latency.measure_latency(self.plan, Registry.built_in(), clock=self.clock)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRun]:
    """fake(stages, ...): models local/a, local/b, ... whose stages take so many seconds an image, and 1 ms outside of any."""

    def begin(
        *models: dict[str, float], sizes: tuple[int, ...] = (1,), kind: type[TimedSampler] = TimedSampler, **options: Any
    ) -> FakeRun:
        clock = FakeClock()
        samplers = {f"local/{name}": kind(clock, stages, 0.001) for name, stages in zip("abc", models, strict=False)}

        def load(spec: ModelSpec, *_: Any) -> TimedSampler:
            clock.pass_by(7.0)
            return samplers[spec.id]

        monkeypatch.setattr(latency, "load_sampler", load)
        specs = tuple(ModelSpec(id=name, sampler="one_step") for name in samplers)
        plan = LatencyPlan(specs, LatencyOptions(MEAN, sizes, **options), "cpu", "float32")
        return FakeRun(plan, clock, samplers)

    return begin


def test_numbers_on_a_known_clock(fake: Callable[..., FakeRun]) -> None:
    run = fake(STAGES, {"text": 0.002, "denoise": 0.010, "decode": 0.006}, sizes=(1, 4))
    results = run()
    one, four = results[0].batches
    assert (one.total.value, one.total.p95, four.total.value) == pytest.approx((10.0, 10.0, 37.0))
    assert {name: stage.value for name, stage in four.stages.items()} == pytest.approx({"text": 4, "denoise": 20, "decode": 12})
    assert (one.gap_ms, four.gap_ms) == pytest.approx((1.0, 1.0))
    assert (one.images_per_second, four.images_per_second) == pytest.approx((100.0, 4 / 0.037))
    assert results[1].batches[0].total.value == pytest.approx(19.0)
    assert one.runs == 4
    assert one.total.repeats == pytest.approx((10.0, 10.0))
    assert (results[0].load_s, results[0].first_run_s) == pytest.approx((7.0, 0.010))
    assert (results[0].interleaved_with, results[1].interleaved_with) == (("local/b",), ("local/a",))
    assert (one.flop, one.ceiling_share, results[0].weights_bytes, results[0].decoder) == ({}, 0.0, None, "")
    assert results[0].protocol_fingerprint == MEAN.fingerprint()
    timed = [block for block in run.samplers["local/a"].blocks if len(block.captions) == 4]
    assert timed[-1].captions == latency.CAPTIONS[4:8]  # the second run of a repeat: other captions, other noise
    assert timed[-1].noise_seeds != timed[-2].noise_seeds


def test_captions_begin_anew_and_noise_does_not() -> None:
    first, later = latency.prompt_block(20, 0), latency.prompt_block(20, 2)
    assert (later.first, later.captions[10:]) == (40, first.captions[:10])
    assert not set(first.noise_seeds) & set(later.noise_seeds)


def test_stages_counted_twice_end_the_run_at_the_first_look(
    fake: Callable[..., FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake(STAGES)
    real = TimedSampler.generate

    def nested(self: TimedSampler, block: Any, stopwatch: Any) -> Any:
        with stopwatch.stage("text"):
            return real(self, block, stopwatch)

    monkeypatch.setattr(TimedSampler, "generate", nested)
    monkeypatch.setattr(latency, "interleaved", lambda *_: pytest.fail("timed all the same"))
    with pytest.raises(IntegrityError, match="local/a: its stages take"):
        run()


def test_too_little_memory_says_what_to_do(fake: Callable[..., FakeRun], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    run = fake(STAGES, sizes=(1, 8))
    monkeypatch.setattr(TimedSampler, "generate", full)
    with pytest.raises(PrerequisiteError, match="out of memory with 1 rows") as caught:
        run()
    assert caught.value.fix == "--batch-size 4, or fewer models at once"


class WithNetwork(TimedSampler):
    """One whose denoiser is a network, which is asked once a call."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.network = torch.nn.Linear(2, 3)

    def networks(self) -> dict[str, torch.nn.Module]:
        return {"unet": self.network}

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Any:
        with stopwatch.stage("denoise"):
            self.network(torch.ones(len(block.captions), 2))
        return super().generate(block, stopwatch)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """compiler(code, graphs): torch.compile as one says: what compiled networks do, and how many graphs were made of them."""
    from torch._dynamo.utils import counters

    def behave(code: Callable[[torch.nn.Linear, torch.Tensor], torch.Tensor], graphs: int = 1) -> None:
        def compile_in_place(network: torch.nn.Linear, **_: Any) -> None:
            network._compiled_call_impl = lambda inputs: code(network, inputs)  # type: ignore[assignment]

        monkeypatch.setattr(torch.nn.Module, "compile", compile_in_place)
        monkeypatch.setitem(counters["stats"], "unique_graphs", graphs)

    return behave


def test_compilation_is_timed_apart(fake: Callable[..., FakeRun], compiler: Callable[..., None]) -> None:
    run = fake(STAGES, compiled=True, kind=WithNetwork)
    seen: list[int] = []

    def slow_at_first(network: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        run.clock.pass_by(0.0 if seen else 30.0)
        seen.append(len(inputs))
        return network.forward(inputs)

    compiler(slow_at_first)
    (result,) = run()
    (batch,) = result.batches
    assert (result.compiled, result.first_run_s, batch.compile_s) == (("denoiser",), pytest.approx(0.010), pytest.approx(30.010))
    assert batch.total.value == pytest.approx(10.0)
    assert batch.flop == {"denoise": 2 * 2 * 3}  # counted while nothing was compiled
    assert (result.parameters, result.weights_bytes) == ({"unet": 9}, 36)
    assert len(seen) == 3 + MEAN.repeats * (MEAN.warm_up + MEAN.runs)  # compiling, a look at the stages, and at memory


def test_what_cannot_be_compiled_is_said_in_a_line(fake: Callable[..., FakeRun], compiler: Callable[..., None]) -> None:
    with pytest.raises(InputError, match="shows no network that could be compiled"):
        fake(STAGES, compiled=True)()

    def broken(network: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler\nand a long story")

    compiler(broken)
    with pytest.raises(PrerequisiteError, match=r"denoiser of local/a failed here: RuntimeError: no compiler\nfix") as caught:
        fake(STAGES, compiled=True, kind=WithNetwork)()
    assert "C++ compiler" in str(caught.value.fix)
    compiler(lambda network, inputs: network.forward(inputs), graphs=0)
    with pytest.raises(PrerequisiteError, match="compiled nothing"):
        fake(STAGES, compiled=True, kind=WithNetwork)()


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LatencyResult]:
    """A student, it by its tiny decoder and a guided teacher of three steps, timed in turn."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_pipeline(folder / "model")
    write_tiny_pipeline(folder / "other", vae="AutoencoderTiny")
    student = {"sampler": "one_step", "location": "model", "steps": 1}
    models = {
        "student": student,
        "student-tiny": student | {"vae": "other"},
        "teacher": {"sampler": "multi_step", "location": "model", "steps": 3, "guidance_scale": 2.0},
    }
    (folder / "catalog.yaml").write_text(yaml.safe_dump({"models": models}))
    registry = Registry.load(folder / "catalog.yaml")
    options = LatencyOptions(QUICK, (1, 3), results=folder / "results")
    plan = plan_latency(["student", "teacher"], options, registry)
    real, latency.CeilingProbe = latency.CeilingProbe, lambda *parts: CeilingProbe(*parts, sizes=(64, (1, 4, 8)))  # type: ignore
    try:
        stored = latency.measure_and_store(plan, registry)
    finally:
        latency.CeilingProbe = real  # type: ignore[misc]
    for result, path in stored:
        assert store.load_latency(path) == result
    return {f"{result.model.id} {result.decoder}": result for result, _ in stored}


@pytest.mark.ci
def test_rows_of_tiny_models(timed: dict[str, LatencyResult]) -> None:
    assert list(timed) == [
        "local/student AutoencoderKL", "local/student-tiny AutoencoderTiny", "local/teacher AutoencoderKL",
        "local/teacher AutoencoderTiny",
    ]  # fmt: skip
    calls = {name.split()[0]: (result.model.nfe, result.denoiser_calls) for name, result in timed.items()}
    assert calls == {"local/student": (1, 1), "local/student-tiny": (1, 1), "local/teacher": (3, 6)}
    assert all(result.model.weights for result in timed.values())
    assert len(timed["local/teacher AutoencoderKL"].interleaved_with) == 3
    assert {result.device for result in timed.values()} == {"cpu"}
    assert all(result.load_s > 0 and result.first_run_s > 0 for result in timed.values())


@pytest.mark.ci
def test_arithmetic_of_tiny_models(timed: dict[str, LatencyResult]) -> None:
    flop = {name: [batch.flop for batch in result.batches] for name, result in timed.items()}
    student, three = flop["local/student AutoencoderKL"]
    teacher = flop["local/teacher AutoencoderKL"][0]
    assert teacher["denoise"] == 6 * student["denoise"] > 0  # three steps, twice each for guidance
    assert teacher["text"] == 2 * student["text"] > 0
    assert teacher["decode"] == student["decode"]
    assert three == {stage: 3 * count for stage, count in student.items()}
    assert flop["local/student-tiny AutoencoderTiny"][0]["denoise"] == student["denoise"]
    assert flop["local/student-tiny AutoencoderTiny"][0]["decode"] != student["decode"]


@pytest.mark.ci
def test_times_of_tiny_models_agree_with_themselves(timed: dict[str, LatencyResult]) -> None:
    for result in timed.values():
        for batch in result.batches:
            assert set(batch.stages) == {"text", "denoise", "decode"}
            assert batch.total.p5 <= batch.total.median <= batch.total.p95
            assert batch.images_per_second == pytest.approx(1000 * batch.batch_size / batch.total.value)
            assert 0 <= batch.gap_ms < batch.total.p95
            assert batch.ceiling_share > 0
            assert batch.run_bytes is not None and batch.run_bytes >= 0
        vae = sum(result.parameters.values()) * 4
        assert result.weights_bytes == pytest.approx(vae, rel=0.05)  # float32, and a few buffers
