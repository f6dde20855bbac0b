"""Ids as people say them."""

from __future__ import annotations

import pytest

from sbv2bench.boards.names import readable, shipped_of


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("mini/sd21", "SD 2.1"), ("mini/sbv2-merged-reg", "SwiftBrush v2 merged, regularised"), ("full/sd-turbo", "SD Turbo"),
        ("local/my_model", "My model"), ("mini/sbv2-b-hps", "SwiftBrush v2 B with HPS"), ("/", "/"),
    ],
)  # fmt: skip
def test_an_id_in_words(model: str, name: str) -> None:
    assert readable(model) == name


def test_further_trainings_are_of_a_shipped_one() -> None:
    assert shipped_of("mini/sbv2-b-seed2") == "mini/sbv2-b"
    assert shipped_of("mini/sbv2-b") is None and shipped_of("mini/x-seed0") is None
