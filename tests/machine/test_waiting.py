"""A thread that shares its core with another waits half of the time; one that sleeps waits for nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sbv2bench.machine import waiting as room
from sbv2bench.machine.waiting import is_busy, waiting

PROBE = """
import os, sys, time
from sbv2bench.machine.waiting import waiting
os.sched_setaffinity(0, {int(sys.argv[1])})
share, end = waiting(), time.perf_counter() + 1.5
while time.perf_counter() < end:
    pass
print(share())
"""


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").is_file(), reason="the system does not say")
def test_two_on_one_core_wait_for_each_other() -> None:
    core = str(min(os.sched_getaffinity(0)))
    both = [subprocess.Popen([sys.executable, "-c", PROBE, core], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    shares = [float(one.communicate(timeout=60)[0]) for one in both]
    assert all(0.3 < share < 0.95 for share in shares) and all(map(is_busy, shares))  # half, and more where others are at work
    share = waiting()
    time.sleep(0.3)
    asleep = share()
    assert asleep is not None and asleep <= 1.0


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "_SCHEDULE", tmp_path / "absent")
    assert waiting()() is None and not is_busy(None) and not is_busy(0.0) and is_busy(0.5)
