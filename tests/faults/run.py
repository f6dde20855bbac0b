"""All kills, by one command: `python tests/faults/run.py --seed 1`. Its table is a part of sbv2bench/README.md.

Each command that ends without a fault is noted in kills.json, so that the same run goes on from there; at the end the README's
part is built anew. The first fault ends the run with 1, and its folder stays. To begin again, delete the file.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parent / "support")]

from faults.jobs import JOBS, named  # noqa: E402
from faults.kills import Tally, try_job  # noqa: E402
from readme_parts import rewrite  # noqa: E402

RECORD = HERE / "kills.json"
README, PART = HERE.parents[1] / "sbv2bench" / "README.md", "tests/faults/run.py: kills"
FRESH = 2  # kills of each command in processes that import for themselves


def main() -> int:
    """Kill every command, or those that are named, and note what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="of the moments")
    parser.add_argument("--kills", type=int, default=209, help="in all")
    parser.add_argument("--job", action="append", help="one command alone, which is not noted; may be repeated")
    parser.add_argument("--build", action="store_true", help="build the README's part from the notes, and kill nothing")
    asked = parser.parse_args()
    jobs = JOBS if asked.job is None else [named(name) for name in asked.job]
    done = (
        [] if asked.job is not None else [job["name"] for run in recorded() for job in run["jobs"] if run["seed"] == asked.seed]
    )
    for job in () if asked.build else [job for job in jobs if job.name not in done]:
        began, place = time.monotonic(), Path(tempfile.mkdtemp(prefix="kills-"))
        print(f"seed {asked.seed}: {job.name}, in {place}", flush=True)
        tally = try_job(job, -(-asked.kills // len(jobs)), asked.seed, place / "job", fresh=FRESH)
        if tally.faults:
            print("\n".join(tally.faults))
            return 1
        shutil.rmtree(place)
        if asked.job is None:
            note(asked.seed, tally, time.monotonic() - began)
    rewrite(README, PART, table(recorded()))
    return 0


def recorded() -> list[dict[str, Any]]:
    """The runs so far."""
    runs: list[dict[str, Any]] = json.loads(RECORD.read_text()) if RECORD.is_file() else []
    return runs


def note(seed: int, tally: Tally, seconds: float) -> None:
    """Add a command to the record of a run."""
    runs = recorded()
    if seed not in [run["seed"] for run in runs]:
        runs.append({"seed": seed, "seconds": 0, "python": platform.python_version(), "jobs": []})
    run = next(run for run in runs if run["seed"] == seed)
    job = asdict(tally) | {"seconds": round(tally.seconds, 2), "longest": round(tally.longest, 2)}
    del job["faults"]  # of which there are none
    run["jobs"].append(job)
    run["seconds"] += round(seconds)
    RECORD.write_text(json.dumps(sorted(runs, key=lambda run: run["seed"]), indent=1) + "\n")


def table(runs: list[dict[str, Any]]) -> list[str]:
    """What was killed, how and how often, over all runs of the record, as Markdown."""
    jobs: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for job in run["jobs"]:
            jobs.setdefault(job["name"], []).append(job)
    rows = []
    for name in [job.name for job in JOBS if job.name in jobs]:
        found = jobs[name]
        clock, write, resumed = (sum(job[key] for job in found) for key in ("by_clock", "before_writes", "resumed"))
        unit, longest = found[0]["unit"], max(job["longest"] for job in found)
        twice = f"{longest:.2g} {unit}{'s' if longest > 1 else ''}" if unit else "what was not finished"
        seconds = max(job["seconds"] for job in found)
        rows.append(f"| {name} | {clock + write} | {clock} / {write} | {resumed} | {seconds:.1f} s | {twice} |")
    every = [job for found in jobs.values() for job in found]
    kills, fresh, read = (sum(numbers) for numbers in zip(*map(_counts, every), strict=True))
    seeds, minutes = (", ".join(str(number) for number in numbers) for numbers in zip(*map(_seed_and_minutes, runs), strict=True))
    return [
        f"{kills} kills with seeds {seeds} in {minutes} minutes, {fresh} of processes that import for themselves, the others",
        "of forks of one that had. After one to three kills the same command ended with the values of a run that nobody killed.",
        f"A second reader parsed {read:,} files meanwhile, and none was half written.",
        "",
        "| command | kills | by the clock / before a file operation | of a resumed run | an unkilled run | done twice, at most |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *rows,
    ]


def _counts(job: dict[str, Any]) -> tuple[int, int, int]:
    return job["by_clock"] + job["before_writes"], job["fresh"], job["read"]


def _seed_and_minutes(run: dict[str, Any]) -> tuple[int, int]:
    return run["seed"], round(run["seconds"] / 60)


if __name__ == "__main__":
    sys.exit(main())
