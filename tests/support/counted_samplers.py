"""The samplers of the tiny suite, which note every block that they begin in the file $SAMPLED: a ledger over many processes."""

from __future__ import annotations

import os

from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch
from sbv2bench.samplers.image_folder import ImageFolderSampler
from sbv2bench.samplers.multi_step import MultiStepSampler
from sbv2bench.samplers.one_step import OneStepSampler

CATALOG = {
    "one_step": {"target": "counted_samplers:CountedOneStep", "replaces": True},
    "multi_step": {"target": "counted_samplers:CountedMultiStep", "replaces": True},
    "image_folder": {"target": "counted_samplers:CountedImageFolder", "replaces": True},
}


def _note(block: PromptBlock) -> None:
    ledger = os.open(os.environ["SAMPLED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(ledger, f"{block.place}\n".encode())
    os.close(ledger)


class CountedOneStep(OneStepSampler):
    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        _note(block)
        return super().generate(block, stopwatch)


class CountedMultiStep(MultiStepSampler):
    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        _note(block)
        return super().generate(block, stopwatch)


class CountedImageFolder(ImageFolderSampler):
    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        _note(block)
        return super().generate(block, stopwatch)
