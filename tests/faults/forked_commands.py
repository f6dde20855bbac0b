"""A process that has imported the libraries, and runs each command that it is told in a fork of itself.

Imports take most of a small command's time and write nothing, so what is killed this way is the part that writes. A line of
JSON on stdin is an order {"words", "folder", "environments", "output", "watched", "die_at"}; a line on stdout has the
processes' ids, and the next one, when all have ended, how: {"codes", "operations"}.

environments: one a process, of those that torchrun would start. die_at: of the first process, the number of the file operation
below `watched` before which it ends by SIGKILL; operations: how many it had begun when it ended.
"""

from __future__ import annotations

import json
import mmap
import os
import runpy
import signal
import struct
import sys
import time
from importlib import import_module
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
GRACE = 10.0  # seconds between the end that one process is asked for, when another has died, and the end that it gets


def count_operations(watched: str, counted: mmap.mmap, die_at: int | None) -> None:
    """Count this process's changes of files below a folder, and end it before one of them."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | os.PathLike) or not flags & WRITING:
                return
        elif event in CHANGES:
            path = arguments[0]
            if not isinstance(path, str | os.PathLike):  # inside a folder that is open: of rmtree
                path = watched
        else:
            return
        if not os.path.abspath(path).startswith(watched):  # noqa: PTH100 (Path would be audited work of its own)
            return
        (done,) = struct.unpack("<Q", counted[:8])
        if die_at is not None and done + 1 >= die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        counted[:8] = struct.pack("<Q", done + 1)

    sys.addaudithook(hook)


def run_command(order: dict[str, Any], environment: dict[str, str]) -> None:
    """The command in this process, as `python -m` has it; never returns."""
    code = 70
    try:
        os.chdir(order["folder"])
        os.environ.update(environment)
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for number in (1, 2):
            os.dup2(output, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = list(order["words"])
        try:
            runpy.run_module(order["words"][0], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
        import atexit

        atexit._run_exitfuncs()  # type: ignore[attr-defined]  # process groups are left there
    except BaseException:  # what Python would print of it
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        code = 1
    finally:
        os._exit(code)


def carry_out(order: dict[str, Any]) -> None:
    """Fork the order's processes and wait for all; when one dies, the others are ended as torchrun ends them."""
    counted = mmap.mmap(-1, 8)
    cores = sorted(os.sched_getaffinity(0))
    processes: dict[int, int | None] = {}
    for number, environment in enumerate(order["environments"]):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.sched_setaffinity(0, {cores[number % len(cores)]})  # one block at a time each
            if number == 0:
                count_operations(order["watched"], counted, order["die_at"])
            run_command(order, environment)
        processes[pid] = None
    print(json.dumps(list(processes)), flush=True)
    asked: float | None = None
    while any(code is None for code in processes.values()):
        for pid in [pid for pid, code in processes.items() if code is None]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                processes[pid] = os.waitstatus_to_exitcode(status)
        left = [pid for pid, code in processes.items() if code is None]
        if left and any(code for code in processes.values()):
            now = time.monotonic()
            if asked is None or now - asked > GRACE:
                for pid in left:
                    os.kill(pid, signal.SIGTERM if asked is None else signal.SIGKILL)
                asked = asked or now
        time.sleep(0.005)
    print(json.dumps({"codes": list(processes.values()), "operations": struct.unpack("<Q", counted[:8])[0]}), flush=True)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        import_module(module)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        carry_out(json.loads(line))
