"""The tiny families, and disks that are small, full or somebody else's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from tiny_family import catalog, registry, watch
from tiny_recipe import write_tiny_family

__all__ = ["catalog", "registry", "watch"]
NOBODY = 65534


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 MB of its own. Skips where nobody may mount one."""
    place = tmp_path / "small-disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def fill(small_disk: Path) -> Iterator[Callable[[], None]]:
    """fill() leaves no room on the small disk, until `empty` or the test's end."""

    def filled() -> None:
        for size in (2**20, 4096):  # others may be writing meanwhile
            with suppress(OSError), (small_disk / f"ballast-{size}").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(b"\0" * size)

    yield filled


@pytest.fixture
def as_somebody_else() -> Callable[[], AbstractContextManager[None]]:
    """Within its block this process has no rights of root: what it owns not, it cannot write. Otherwise it has none anyway."""

    @contextmanager
    def lowered() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    return lowered
