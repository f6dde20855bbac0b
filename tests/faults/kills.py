"""Commands killed by SIGKILL at random moments and run again, with a second reader looking on.

Half of the kills come at a moment of the clock, from outside; half before a file operation, so that every state between two of
them is met however fast they follow each other. Most runs are forks of a process that has imported the libraries
(`forked_commands`); the first of each job are fresh processes, begun by torchrun where there are two ranks.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from faults.jobs import Environment, Job, prepared, words

ROOT = Path(__file__).parents[2]
PATIENCE = 1500.0  # seconds for a run that nothing kills, on a machine that does much else
IMPORTS = 8.0  # seconds of a fresh process before it does anything
FAULTS_ENOUGH = 5  # of a job, after which nobody needs more
LONGEST_CHAIN = 3  # runs of one folder that are killed before one is let through


@dataclass
class Tally:
    """What happened to one job. by_clock, before_writes: kills. fresh: of them, those of processes that imported for themselves.

    resumed: kills of runs that went on from an earlier kill. longest: units done twice for one kill. read: files that the second
    reader parsed. faults: whatever was not as it must be, in words.
    """

    name: str
    unit: str = ""
    by_clock: int = 0
    before_writes: int = 0
    fresh: int = 0
    resumed: int = 0
    finished_first: int = 0
    seconds: float = 0.0
    operations: int = 0
    longest: float = 0.0
    read: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.by_clock + self.before_writes


@dataclass(frozen=True)
class Run:
    """How a run ended: whether it was killed by us; its exit codes; file operations of its first process; seconds."""

    killed: bool
    codes: list[int]
    operations: int
    seconds: float


class Commands:
    """A job's runs in one place, forked or fresh."""

    def __init__(self, job: Job, inputs: Path, environment: Environment, place: Path) -> None:
        self.job, self.inputs, self.words, self.place = job, inputs, words(job, inputs), place
        path = [ROOT, ROOT / "tests", ROOT / "tests" / "support"]
        self.environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200", "PYTHONFAULTHANDLER": "1", "HF_HOME": str(place / "hf"), **environment,
        }  # fmt: skip
        command = [sys.executable, str(Path(__file__).with_name("forked_commands.py")), *job.imports]
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment, cwd=place, text=True
        )
        self._answer(PATIENCE)

    def close(self) -> None:
        """End the process that forks."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.kill()  # what its libraries do at their end is of no matter
        self.server.wait()

    def own(self, folder: Path) -> Environment:
        """What is of one folder: its cache, its ledger."""
        return {
            "SBV2BENCH_HOME": str(folder / "home"),
            "HF_HUB_CACHE": str(folder / "hub"),
            "SAMPLED": str(folder / "sampled"),
            "TMPDIR": str(self.place),
        }

    def forked(self, folder: Path, *, after: float | None = None, die_at: int | None = None, alone: bool = False) -> Run:
        """Run in a folder. after: seconds until the kill. die_at: the file operation before which the first process ends.

        alone: kill by the clock one rank, and let the launcher's way with the others take its course.
        """
        own, port = self.own(folder), _free_port()
        ranks = self.job.ranks
        group = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environments = [own | ({} if ranks == 1 else group | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(ranks)]
        order = {
            "words": self.words, "folder": str(folder), "environments": environments, "output": str(folder.with_suffix(".log")),
            "watched": str(folder), "die_at": die_at,
        }  # fmt: skip
        assert self.server.stdin is not None
        print(json.dumps(order), file=self.server.stdin, flush=True)
        pids: list[int] = self._answer(PATIENCE)
        began, killed = time.monotonic(), False
        ended = self._answer(after) if after is not None else None
        if after is not None and ended is None:
            killed = True
            kill_all(pids[-1:] if alone else pids)
        if ended is None:
            ended = self._answer(PATIENCE)
        assert ended is not None, f"{self.words} did not end; see {folder.with_suffix('.log')}"
        killed = killed and -signal.SIGKILL in ended["codes"]
        killed = killed or (die_at is not None and ended["codes"][0] == -signal.SIGKILL)
        return Run(killed, ended["codes"], ended["operations"], time.monotonic() - began)

    def fresh(self, folder: Path, *, after: float | None = None) -> Run:
        """Run in a folder as a user does, in a process that imports all that it needs; after so many seconds it is killed."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.job.ranks)]
        command = [sys.executable, *(launcher if self.job.ranks > 1 else []), "-m", *self.words]
        with folder.with_suffix(".log").open("a") as log:
            began = time.monotonic()
            process = subprocess.Popen(
                command, env=self.environment | self.own(folder), cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            killed = False
            try:
                process.wait(timeout=after or PATIENCE)
            except subprocess.TimeoutExpired:
                killed = after is not None
                kill_all([process.pid])
                process.wait()
        return Run(killed, [process.returncode], 0, time.monotonic() - began)

    def _answer(self, seconds: float) -> Any:
        assert self.server.stdout is not None
        ready, _, _ = select.select([self.server.stdout], [], [], seconds)
        if not ready:
            return None
        line = self.server.stdout.readline()
        assert line, "the process that forks has ended"
        return json.loads(line)


def kill_all(pids: list[int]) -> None:
    """Processes and all that they began, stopped first so that none begins another."""
    found: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.suspend()
            found += [process, *process.children(recursive=True)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def second_reader(folder: Path, tally: Tally) -> Iterator[None]:
    """A process that reads whatever is there while the block lasts; what it finds half written becomes a fault."""
    notes = folder.with_name(f"{folder.name}.half-written")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    reader = subprocess.Popen(
        [sys.executable, "-m", "faults.polling", str(folder), str(notes)], stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        yield
    finally:
        reader.terminate()
        out, _ = reader.communicate(timeout=120)
        tally.read += json.loads(out or '{"read": 0}')["read"]
        if reader.returncode:
            tally.faults.append(f"the second reader ended with {reader.returncode}")
        if notes.is_file():
            tally.faults += [f"half written: {line}" for line in notes.read_text().splitlines()]


def try_job(job: Job, kills: int, seed: int, place: Path, *, fresh: int = 0) -> Tally:
    """Kill a job so many times, of which `fresh` as fresh processes, below a new folder; returns what was seen."""
    tally = Tally(job.name, job.unit)
    inputs, trials = prepared(job, place / "inputs"), place / "trials"
    trials.mkdir()
    with job.serving(inputs) as environment, second_reader(trials, tally):
        commands = Commands(job, inputs, environment, place)
        try:
            trial = Trials(commands, trials, tally, random.Random(f"{seed} {job.name}"))
            while tally.kills < kills and len(tally.faults) < FAULTS_ENOUGH:
                trial.run(kills - tally.kills, fresh=tally.fresh < fresh)
                print(f"{job.name}: {tally.kills}/{kills} kills, {tally.faults or 'no fault'}", flush=True)
        finally:
            commands.close()
    return tally


class Trials:
    """Folders in which a job is killed a few times and then let through."""

    def __init__(self, commands: Commands, place: Path, tally: Tally, moments: random.Random) -> None:
        """Runs the job once with nobody killing it, for its values and its length."""
        self.commands, self.place, self.tally, self.moments = commands, place, tally, moments
        job = self.job = commands.job
        whole = self.begun("whole")
        unkilled = commands.forked(whole)
        assert not any(unkilled.codes), f"{job.name}: {unkilled}: {_tail(whole)}"
        tally.seconds, tally.operations = unkilled.seconds, unkilled.operations
        self.expected = job.values(whole)
        self.count = 0

    def begun(self, name: str) -> Path:
        """A new folder to run in."""
        folder = self.place / name
        folder.mkdir()
        self.job.begin(self.commands.inputs, folder)
        return folder

    def run(self, most: int, *, fresh: bool) -> None:
        """A folder in which the command is killed at most so often, then let through; what it left is looked at."""
        job, tally, self.count = self.job, self.tally, self.count + 1
        folder = self.begun(f"{self.count:04d}")
        killed, done_by_then = 0, None
        for _ in range(min(most, self.moments.randint(1, LONGEST_CHAIN))):
            run, what = self.kill(folder, fresh=fresh)
            if not run.killed:
                tally.finished_first += 1
                if any(run.codes):
                    return self.fault(folder, f"{what}, ended with {run.codes}: {_tail(folder)}")
                done_by_then = None if job.ledger is None else job.ledger(folder)
                break
            tally.resumed += killed > 0
            killed += 1
            lost = 0.0 if job.lost is None else job.lost(folder)
            tally.longest = max(tally.longest, lost)
            if lost > job.ranks:
                self.fault(folder, f"{what}, {lost:g} {job.unit}s are to be done again")
            if job.ledger is not None and job.complete(folder):
                done_by_then = job.ledger(folder)
                break
        last = self.commands.fresh(folder) if fresh else self.commands.forked(folder)
        if any(last.codes):
            return self.fault(folder, f"after {killed} kills the run ended with {last.codes}: {_tail(folder)}")
        if (found := job.values(folder)) != self.expected:
            self.fault(folder, f"after {killed} kills other values: {_difference(found, self.expected)}")
        if job.ledger is not None and killed:
            done, needed = done_by_then or job.ledger(folder)
            tally.longest = max(tally.longest, (done - needed) / killed)
            if done - needed > killed * job.ranks:
                self.fault(folder, f"{done - needed} {job.unit}s were done twice for {killed} kills")
        return None

    def kill(self, folder: Path, *, fresh: bool) -> tuple[Run, str]:
        """One run that is killed, if it does not end first; and what was to kill it, in words."""
        job, tally, moments = self.job, self.tally, self.moments
        before_write = not fresh and moments.random() < 0.5
        if fresh:
            after = moments.uniform(0.0, IMPORTS + 2 * tally.seconds)
            run, what = self.commands.fresh(folder, after=after), f"fresh, after {after:.2f} s"
        elif before_write:
            die_at = moments.randint(1, max(1, tally.operations))
            run, what = self.commands.forked(folder, die_at=die_at), f"before file operation {die_at}"
        else:
            after, alone = moments.uniform(0.0, tally.seconds), job.ranks > 1 and moments.random() < 0.5
            run, what = self.commands.forked(folder, after=after, alone=alone), f"after {after:.2f} s"
        tally.before_writes += run.killed and before_write
        tally.by_clock += run.killed and not before_write
        tally.fresh += run.killed and fresh
        return run, what

    def fault(self, folder: Path, words: str) -> None:
        self.tally.faults.append(f"trial {folder.name}: {words}")


def _tail(folder: Path) -> str:
    log = folder.with_suffix(".log")
    return " | ".join(log.read_text(errors="replace").splitlines()[-6:]) if log.is_file() else ""


def _difference(found: object, expected: object) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted({*found, *expected}, key=str)
        return ", ".join(str(key) for key in keys if found.get(key) != expected.get(key))[:300]
    return f"{str(found)[:120]} for {str(expected)[:120]}"
