"""Paper scale where it is true: a step of models A and B on Stable Diffusion 2.1-base's own architecture. Minutes and 20 GB."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import sd21_step

from reference_trainer.recipe_files import read_recipe
from reference_trainer.show import describe

PROGRAM = Path(sd21_step.__file__)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["paper/sbv2-a", "paper/sbv2-b"])
def test_a_true_step(name: str) -> None:
    """Finite, what is trained moves and nothing else, and the memory is what `show` says, to a fifth."""
    done = subprocess.run([sys.executable, str(PROGRAM), name], capture_output=True, text=True, check=False, timeout=1100)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    first, second = found["figures"]
    assert all(math.isfinite(value) for figures in found["figures"] for value in figures.values())
    assert first["vsd_loss"] == 0.0 and second["vsd_loss"] > 0.0
    assert found["frozen_still"]
    assert found["moved"]["student"] > 0.9 and found["moved"]["lora_teacher"] > 0.9
    if name == "paper/sbv2-b":
        assert second["clip_gradient_at_x0"] > 0.0
    described = describe(read_recipe(name, sd21_step.OVERRIDES), latent_size=sd21_step.SIDE, device="cpu")["memory"]
    absent = sum(described["components"][part] for part in ("text_encoder", "vae"))
    predicted = described["peak"] - absent
    print(f"{name}: measured {found['bytes'] / 1e9:.2f} GB, predicted {predicted / 1e9:.2f} GB")
    assert found["bytes"] == pytest.approx(predicted, rel=0.1)
