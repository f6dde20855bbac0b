"""One part in a process of its own: python -m gpu.part NAME DEVICE FOLDER FIGURES.

It imports what it needs, says so by a file FIGURES.ready, and waits for a line on stdin, the seconds that it has: so imports
take no time from the card, on which the part before it still runs.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from gpu.figures import Figures, one_line
from gpu.setting import Setting


def main(name: str, device: str, folder: str, path: str) -> None:
    """Measure, once told to; what breaks the part is among its figures."""
    part = importlib.import_module(f"gpu.{name}")
    Path(f"{path}.ready").touch()
    seconds = sys.stdin.readline()
    if not seconds:  # whoever started it is gone
        return
    figures = Figures(Path(path))
    try:
        part.measure(Setting("cuda" if device == "cuda" else "cpu", device == "cuda", Path(folder), float(seconds)), figures)
    except BaseException as error:
        figures.add("error", one_line(error))
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
