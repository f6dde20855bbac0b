"""What pyproject.toml asks for, with licences and reasons: the table in sbv2bench/README.md, and the lowest versions.

`python tests/support/dependencies.py` writes the table; with `--lowest` it prints pip's constraints instead.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
README, PART = ROOT / "sbv2bench" / "README.md", "tests/support/dependencies.py: dependencies"
REASONS: dict[str, dict[str, str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def asked_for() -> dict[str, dict[str, str]]:
    """Extra ("" for what every installation has) -> name -> versions, as pyproject.toml has them; none of our own extras."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, dict[str, str]] = {}
    for extra, requirements in groups.items():
        parts = [re.fullmatch(r"([\w.-]+)(.*)", requirement.split(";")[0].strip()) for requirement in requirements]
        found[extra] = {part[1]: part[2] for part in parts if part is not None and not part[2].startswith("[")}
    return found


def table() -> list[str]:
    """A line a package: where it is asked for, since which version, under which licence, and why."""
    lines = ["| package | versions | extra | licence | why |", "| --- | --- | --- | --- | --- |"]
    extras: dict[str, list[str]] = {}
    versions: dict[str, str] = {}
    for extra, packages in asked_for().items():
        for name, version in packages.items():
            extras.setdefault(name, []).append(extra)
            versions[name] = version
    for name, found in extras.items():
        own = REASONS[name]
        lines.append(f"| {name} | {versions[name]} | {', '.join(filter(None, found))} | {own['licence']} | {own['why']} |")
    return lines


def lowest(extras: tuple[str, ...] = ("", "train", "report")) -> list[str]:
    """Constraints that allow the lowest versions only, of what the extras ask for."""
    asked = asked_for()
    return [
        f"{name}=={bound[1]}{'.*' if bound[1].count('.') < 2 else ''}"
        for extra in extras
        for name, version in asked[extra].items()
        if (bound := re.search(r">=([\d.]+)", version)) is not None
    ]


if __name__ == "__main__":
    if "--lowest" in sys.argv:
        print("\n".join(lowest()))
    else:
        sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
        from readme_parts import rewrite

        rewrite(README, PART, table())
