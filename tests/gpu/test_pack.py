"""What is left out of the working tree for a machine with a GPU comes back, whatever happens in between."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

WEIGHTS = "sbv2bench/mini/weights"
KEPT = {f"{WEIGHTS}/sd21/unet.bin", f"{WEIGHTS}/manifest.json", "sbv2bench/__init__.py", "tests/gpu/pack.sh"}
LEFT = {f"{WEIGHTS}/sbv2-a/unet.bin", f"{WEIGHTS}/training/a name with spaces.txt", "leaderboards/results/one.json"}


def git(root: Path, *words: str) -> str:
    found = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(root), *words]
    return subprocess.run(found, capture_output=True, text=True, check=True).stdout


def pack(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(root / "tests/gpu/pack.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root.parent)


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and ".git" not in path.parts}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name in KEPT | LEFT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    shutil.copy(Path(__file__).parent / "pack.sh", root / "tests/gpu/pack.sh")
    git(tmp_path, "init", "-q", "checkout")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")
    return root


def test_out_and_back(root: Path) -> None:
    done = pack(root, "out")
    assert done.returncode == 0, done.stderr
    assert "left out 3 files" in done.stderr
    assert files(root) == KEPT
    assert git(root, "status", "--porcelain") == ""  # so that nobody commits that they are gone
    assert pack(root, "back").returncode == 0
    assert {name: (root / name).read_text() for name in LEFT} == {name: name for name in LEFT}
    assert git(root, "status", "--porcelain") == ""
    assert "S " not in git(root, "ls-files", "-v")


def test_a_tree_with_changes_is_left_alone(root: Path) -> None:
    (root / "leaderboards/results/one.json").write_text("an hour's work")
    done = pack(root, "out")
    assert done.returncode == 4 and "leaderboards/results/one.json" in done.stderr
    assert files(root) == KEPT | LEFT


@pytest.mark.parametrize("command", ["exit 7", "kill -TERM $PPID; sleep 5"])
def test_a_command_that_fails_or_is_stopped_leaves_everything_as_it_was(root: Path, command: str) -> None:
    done = pack(root, "run", "bash", "-c", f"test ! -e leaderboards && {command}")
    assert done.returncode == (7 if "exit" in command else 143)
    assert files(root) == KEPT | LEFT
    assert git(root, "status", "--porcelain") == ""


def test_a_file_that_was_made_meanwhile_is_not_overwritten(root: Path) -> None:
    pack(root, "out")
    place = root / "leaderboards/results/one.json"
    place.parent.mkdir(parents=True)
    place.write_text("new")
    done = pack(root, "back")
    assert done.returncode == 4 and "leaderboards/results/one.json" in done.stderr
    assert place.read_text() == "new"
    assert files(root) == KEPT | LEFT


def test_back_twice_is_back(root: Path) -> None:
    pack(root, "out")
    assert [pack(root, "back").returncode for _ in range(2)] == [0, 0]
    assert files(root) == KEPT | LEFT
