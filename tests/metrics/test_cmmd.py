"""CMMD: closed forms, the published definition written out, blocks, and its standard error against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from sbv2bench.errors import InputError
from sbv2bench.metrics import cmmd
from sbv2bench.metrics.cmmd import cmmd_statistics


def by_definition(generated: np.ndarray, reference: np.ndarray) -> float:
    """Whole matrices of squared distances between unit rows, diagonals counted."""
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (generated, reference))

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        squares = np.square(a[:, None] - b[None]).sum(axis=2)
        return float(np.exp(-squares / (2 * 10**2)).mean())

    return 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


def test_two_directions() -> None:
    """All generated rows along one axis, all of the reference along another: 1,000 (1 + 1 - 2 exp(-2 / 200)), of any lengths."""
    generated, reference = np.tile([3.0, 0.0], (4, 1)), np.tile([0.0, 0.2], (7, 1))
    assert cmmd(generated, reference) == pytest.approx(2000 * (1 - np.exp(-0.01)), rel=1e-12)
    assert cmmd(generated, -generated) == pytest.approx(2000 * (1 - np.exp(-0.02)), rel=1e-12)


def test_a_set_has_no_distance_to_itself(golden: tuple[np.ndarray, np.ndarray]) -> None:
    assert 0 <= cmmd(golden[0], golden[0]) < 1e-9


@pytest.mark.parametrize("block", [1, 64, 1024])
def test_blocked_equals_the_definition(
    golden: tuple[np.ndarray, np.ndarray], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated, reference = golden[0][:90], golden[1][:110]
    monkeypatch.setattr("sbv2bench.metrics.kernel._BLOCK", block)
    assert cmmd(generated, reference) == pytest.approx(by_definition(generated, reference), rel=1e-9)
    assert cmmd(generated.astype(np.float32), reference) == pytest.approx(by_definition(generated, reference), rel=1e-6)


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(300):
        generated, reference = rng.standard_normal((150, 6)), rng.standard_normal((200, 6))
        generated[:, 0] += 1.5
        found.append(cmmd_statistics(generated, reference))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.12)


def test_a_row_of_zeros_has_no_direction() -> None:
    with pytest.raises(InputError, match="reference row 1 is all zeros"):
        cmmd(np.ones((3, 2)), np.array([[1.0, 0.0], [0.0, 0.0]]))
