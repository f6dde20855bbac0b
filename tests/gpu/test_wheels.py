"""Which wheels a machine lacks: of packages on this disk in place of an index."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "wheels.sh"


def write_wheel(folder: Path, name: str, version: str, *needs: str, tag: str = "py3-none-any") -> None:
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", text)
        wheel.writestr(f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{name}-{version}.dist-info/RECORD", "")


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}
    command = ["bash", str(SCRIPT), str(tmp_path / "freeze.txt"), str(tmp_path / "wheels"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def there(tmp_path: Path) -> list[str]:
    """A machine that has everything but pooch, and too old a pandas; an index of wheels for it, and for others."""
    import tomllib

    index = tmp_path / "index"
    index.mkdir()
    write_wheel(
        index,
        "pooch",
        "1.9",
        "requests>=2",
        "helper>1; python_version >= '3.12'",
        "windows; sys_platform == 'win32'",
        "never; extra == 'sftp'",
    )
    write_wheel(index, "pooch", "2.0", tag="cp311-cp311-manylinux_2_17_x86_64")  # of another Python
    write_wheel(index, "helper", "1.5", tag="cp312-cp312-manylinux_2_28_x86_64")
    write_wheel(index, "pandas", "3.0")
    write_wheel(index, "extra", "1.0")
    declared = tomllib.loads((SCRIPT.parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [line.partition(">")[0] for line in declared]
    lines = [f"{name}==99.0" for name in [*names, "pytest", "pytest-timeout", "pytest-xdist", "pytest-benchmark"]]
    lines = [line for line in lines if not line.startswith(("pooch", "pandas"))]
    return [*lines, "torch==2.11.0+cu130", "pandas==1.0", "requests @ file:///somewhere"]


@pytest.mark.ci
def test_what_is_missing_or_too_old_comes_with_what_it_needs(tmp_path: Path, there: list[str]) -> None:
    (tmp_path / "freeze.txt").write_text("\n".join(line for line in there if line != "torch==99.0"))
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in (tmp_path / "wheels").iterdir())
    assert found == [
        "helper-1.5-cp312-cp312-manylinux_2_28_x86_64.whl",
        "pandas-3.0-py3-none-any.whl",
        "pooch-1.9-py3-none-any.whl",
    ]
    assert "pandas 1.0 there is not >=2.2, which sbv2bench asks for" in done.stderr
    assert "MiB  in all" in done.stdout


@pytest.mark.ci
def test_what_is_not_to_be_had_or_too_large_is_said(tmp_path: Path, there: list[str]) -> None:
    (tmp_path / "freeze.txt").write_text("\n".join(line for line in there if line != "torch==99.0"))
    large = run(tmp_path, "--most", "0")
    assert large.returncode == 4 and "expected at most 0" in large.stderr
    again = run(tmp_path)
    assert again.returncode == 3 and "is not empty" in again.stderr
    (tmp_path / "index" / "helper-1.5-cp312-cp312-manylinux_2_28_x86_64.whl").unlink()
    for path in (tmp_path / "wheels").iterdir():
        path.unlink()
    missing = run(tmp_path)
    assert missing.returncode == 3 and "helper>1, which pooch 1.9 needs" in missing.stderr
