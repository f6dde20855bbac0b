"""The wheels that a list of installed packages lacks, for its Python on Linux x86-64: see wheels.sh.

What is installed there is known by name and version alone. So each package that is missing, or too old, is downloaded by itself,
and what it needs is read from its metadata: pip's own resolver would download torch to find out that it is there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
FOR_TESTS = ("pytest", "pytest-timeout", "pytest-xdist", "pytest-benchmark")  # what conftest and pyproject ask for
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]


class Failed(Exception):
    """Why the wheels cannot be had, and what to do."""


def main(arguments: list[str]) -> int:
    """Gather, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="wheels.sh")
    parser.add_argument("freeze", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--most", type=float, default=40.0, help="MiB of all wheels together")
    parser.add_argument("--pin", action="append", default=[], help="NAME==VERSION of a package to take")
    parser.add_argument("--also", action="append", default=[], help="a package that is wanted besides, as bitsandbytes")
    asked = parser.parse_args(arguments)
    try:
        wheels = gather(asked.freeze, asked.folder, asked.python, asked.pin, asked.also)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    total = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    for wheel in sorted(wheels):
        print(f"{wheel.stat().st_size / 2**20:8.2f} MiB  {wheel.name}")
    print(f"{total:8.2f} MiB  in all, of at most {asked.most:g}")
    if total > asked.most:
        print(f"error: the wheels take {total:.1f} MiB, expected at most {asked.most:g}", file=sys.stderr)
        return 4
    return 0


def gather(freeze: Path, folder: Path, python: str, pins: list[str], also: list[str]) -> list[Path]:
    """Download into the folder, which must be empty, what is lacking; the wheels. Raises Failed."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Failed(f"{folder} is not empty\nfix: another folder")
    installed, environment = _installed(freeze), default_environment() | _there(python)
    chosen = {canonicalize_name(Requirement(pin).name): Requirement(pin) for pin in pins}
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["dependencies"]
    asked = [Requirement(line) for line in (*project, *FOR_TESTS, *also)]
    waiting = [(one, "sbv2bench") for one in asked if _asked(one, set(), environment)]
    wanted: dict[str, Requirement] = {}  # of what is gathered, all that was asked of it together
    found: dict[str, tuple[Version, Path]] = {}
    while waiting:
        requirement, whose = waiting.pop(0)
        name = canonicalize_name(requirement.name)
        if name not in found and name in installed and _suits(installed[name], requirement):
            continue
        if name in found and found[name][0] in requirement.specifier:
            continue
        together = wanted.get(name) or chosen.get(name) or Requirement(requirement.name)
        together.specifier &= requirement.specifier
        wanted[name] = together
        if name in installed and name not in found:
            print(f"{name} {installed[name]} there is not {requirement.specifier}, which {whose} asks for", file=sys.stderr)
        if name in found:
            found.pop(name)[1].unlink()
        wheel = _download(f"{together.name}{together.specifier}", whose, folder, python)
        version, needs = _metadata(wheel)
        found[name] = version, wheel
        waiting += [(need, f"{name} {version}") for need in needs if _asked(need, requirement.extras, environment)]
    return [wheel for _, wheel in found.values()]


def _installed(freeze: Path) -> dict[str, Version | None]:
    """Name -> version of a frozen list; None where it does not say, as of a package from a folder."""
    found: dict[str, Version | None] = {}
    for line in freeze.read_text("utf-8").splitlines():
        if not line.strip() or line.lstrip().startswith(("#", "-")):
            continue
        try:
            requirement = Requirement(line.strip())
        except InvalidRequirement as error:
            raise Failed(f"{freeze}: found {line!r}, expected a line of pip freeze ({error})") from error
        exact = [one.version for one in requirement.specifier if one.operator == "=="]
        found[canonicalize_name(requirement.name)] = Version(exact[0]) if exact else None
    return found


def _suits(version: Version | None, requirement: Requirement) -> bool:
    """Whether an installed version is one that is asked for; one that nobody knows is taken to be."""
    return version is None or requirement.specifier.contains(version, prereleases=True)


def _there(python: str) -> dict[str, str]:
    """What markers of requirements may ask about that machine."""
    return {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python if python.count(".") > 1 else f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": "x86_64",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }


def _asked(need: Requirement, extras: set[str], environment: dict[str, str]) -> bool:
    """Whether a wheel needs it, with some extras or without."""
    return need.marker is None or any(need.marker.evaluate(environment | {"extra": extra}) for extra in ("", *extras))


def _download(what: str, whose: str, folder: Path, python: str) -> Path:
    """The newest wheel that fits there; only this one."""
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "-d", str(folder)]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run([*command, what], capture_output=True, text=True, check=False)
    new = set(folder.iterdir()) - before
    if done.returncode or len(new) != 1:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise Failed(f"{what}, which {whose} needs: {last}\nfix: --pin {Requirement(what).name}==VERSION")
    return new.pop()


def _metadata(wheel: Path) -> tuple[Version, list[Requirement]]:
    """The version of a wheel and what it needs."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(name).decode("utf-8"))
    return Version(message["Version"]), [Requirement(line) for line in message.get_all("Requires-Dist") or []]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
