"""Files that are not what they should be: every reader refuses them in its own words, in no time, whatever they hold."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from faults.readers import READERS
from faults.spoiling import spoilt
from hypothesis import HealthCheck, given, settings

CORPUS = Path(__file__).parent / "corpus"
FEW, MANY = 20, 3000
SECONDS = 20  # for one file, on a machine that is busy


@contextmanager
def in_time() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"a reader took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, in_time():
        READERS[name].refuses_in_words(content, Path(folder))


def examine(name: str, count: int, *, derandomize: bool) -> None:
    @settings(
        max_examples=count, deadline=None, database=None, derandomize=derandomize, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(spoilt(READERS[name]))
    def examined(content: bytes) -> None:
        check(name, content)

    examined()


@pytest.mark.parametrize("name", READERS)
def test_what_is_good_is_read(name: str, tmp_path: Path) -> None:
    READERS[name].read(READERS[name].good(), tmp_path)


@pytest.mark.ci
@pytest.mark.parametrize("name", READERS)
def test_a_few_spoilt_files_are_refused_in_words(name: str) -> None:
    examine(name, FEW, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_many_spoilt_files_are_refused_in_words(name: str) -> None:
    examine(name, MANY, derandomize=False)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_was_a_fault_is_refused_in_words(path: Path) -> None:
    check(path.parent.name, path.read_bytes())
