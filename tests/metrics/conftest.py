from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def golden() -> tuple[np.ndarray, np.ndarray]:
    """(generated [400, 16], reference [500, 16]) whose metrics several libraries agree on; the reference is drawn first."""
    rng = np.random.default_rng(20240827)
    reference = rng.standard_normal((500, 16))
    generated = 0.9 * rng.standard_normal((400, 16)) + 0.25
    assert np.allclose(reference[0, :3], [-0.04573247, -1.02614949, 0.41324616], atol=1e-8)
    assert np.allclose(generated[0, :3], [1.18282318, 1.44997932, -0.51338721], atol=1e-8)
    assert np.allclose([reference.sum(), generated.sum()], [-44.58445757, 1612.10726885], atol=1e-7)
    return generated, reference
