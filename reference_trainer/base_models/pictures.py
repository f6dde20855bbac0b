"""Grids of what a network in training makes."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from sbv2bench.atomic import whole_file


def write_grid(path: Path, images: torch.Tensor, columns: int, zoom: int = 3) -> None:
    """Write images [N, 3, H, W] in [-1, 1] as one PNG, whole, row by row, each pixel `zoom` times enlarged."""
    uint8 = ((images.clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8).permute(0, 2, 3, 1)
    rows = uint8[: len(uint8) // columns * columns].unflatten(0, (-1, columns))
    canvas = rows.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1).numpy()
    height, width, _ = canvas.shape
    with whole_file(path) as file:
        Image.fromarray(canvas).resize((width * zoom, height * zoom), Image.Resampling.NEAREST).save(file, "PNG")
