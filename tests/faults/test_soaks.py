"""Long runs, `pytest -m slow tests/faults/test_soaks.py`: memory stays flat after the first tenth, and time grows as the work."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sample_results import sample_result

from reference_trainer.config import Prompts
from reference_trainer.prompts.source import PromptSource
from sbv2bench.boards.boards import boards
from sbv2bench.evaluation import evaluate as spine
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CAPTIONS, BLOCK, PROMPTS, RESULTS = 10_000, 50, 3_000_000, 2_000


class Gauge:
    """Notes the memory that is this process's own (MiB; no mapped file) and its CPU seconds, as often as it is asked."""

    def __init__(self) -> None:
        self.memory: list[float] = []
        self.seconds: list[float] = []

    def note(self) -> None:
        status = Path("/proc/self/status").read_text()
        self.memory.append(int(status.split("RssAnon:")[1].split()[0]) / 1024)
        self.seconds.append(time.process_time())

    def after(self, tenth: int) -> tuple[float, float]:
        """What memory grew by from a tenth of the notes on (MiB), and the time of the last half of that by that of the first."""
        memory, seconds = np.array(self.memory[tenth:]), np.array(self.seconds[tenth:])
        first, last = np.array_split(np.diff(seconds), 2)
        quarter = len(memory) // 4
        return float(memory[-quarter:].mean() - memory[:quarter].mean()), float(last.sum() / first.sum())


class NoiseSampler:
    """A model that costs nothing: images of noise in the size of another's."""

    def __init__(self, other: Any, gauge: Gauge) -> None:
        self.spec, self.resolution, self.network_calls = other.spec, other.resolution, other.network_calls
        self.gauge = gauge

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        self.gauge.note()
        shape = (len(block.captions), self.resolution, self.resolution, 3)
        with stopwatch.stage("denoise"):
            return np.random.default_rng(block.place).integers(0, 256, shape, dtype=np.uint8)


def test_ten_thousand_captions_through_the_whole_of_eval(catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = yaml.safe_load(catalog.read_text())
    tree["suites"]["tiny"] |= {"num_generated": CAPTIONS, "num_reference": 400, "block_size": BLOCK}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(tree))
    gauge, real = Gauge(), spine.load_sampler
    monkeypatch.setattr(spine, "load_sampler", lambda *arguments: NoiseSampler(real(*arguments), gauge))
    result = evaluate("student", "tiny", registry=Registry.load(tmp_path / "catalog.yaml"))
    assert result.metrics["fid"].n_generated == CAPTIONS and len(gauge.memory) == CAPTIONS // BLOCK
    grown, slower = gauge.after(CAPTIONS // BLOCK // 10)
    print(f"eval: {grown:.1f} MiB, last half {slower:.2f} times the first, {gauge.seconds[-1] - gauge.seconds[0]:.0f} s of CPU")
    assert grown < 25 and slower < 1.3


def test_three_million_prompts_through_the_trainers_reader(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    with path.open("w") as file:
        file.writelines(f"a photograph of thing number {number} beside another thing\n" for number in range(PROMPTS))
    began = time.process_time()
    source = PromptSource([Prompts(source=str(path))])
    opened = time.process_time() - began
    gauge = Gauge()
    steps = PROMPTS // 3000
    assert len(source) == PROMPTS
    for step in range(steps):  # an epoch
        captions = source.prompts_at(0, step, 3000, range(3000))
        if step % 10 == 0:
            gauge.note()
    assert len(set(captions)) == 3000
    grown, slower = gauge.after(steps // 100)
    print(f"reader: {grown:.1f} MiB, last half {slower:.2f} times the first, opened in {opened:.0f} s of CPU")
    assert grown < 25 and slower < 1.3 and opened < 120


def test_a_folder_of_two_thousand_results(tmp_path: Path) -> None:
    def seconds(paths: Iterable[Path], folder: Path) -> float:
        for path in paths:
            place = folder / "results" / path.relative_to(tmp_path / "made")
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
        gc.collect()
        began = time.process_time()
        found = boards(folder)
        taken = time.process_time() - began
        assert sum(len(board.rows) for board in found) >= len(store.find(folder / "results")) >= RESULTS // 4
        return taken

    made = list(_results(tmp_path / "made"))
    folder = tmp_path / "boards"
    (folder / "results").mkdir(parents=True)
    few, many = seconds(made[: RESULTS // 4], folder), seconds(made[RESULTS // 4 :], folder)
    print(f"boards: {RESULTS // 4} files in {few:.1f} s, {RESULTS} in {many:.1f} s")
    assert many < 30 and many < 6 * few


def _results(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    for number in range(RESULTS):
        yield store.write(sample_result(12.0 + number / 1000, guidance=1.5 + number / 1000), folder)
