"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sbv2bench.atomic import whole_file, whole_folder, write_whole


def test_a_file_takes_its_place_when_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_text_keeps_its_line_ends(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "é\r\n\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n\n".encode()


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("")
    with whole_folder(tmp_path / "a") as part:
        (part / "new").write_text("")
        assert (tmp_path / "a" / "old").exists()
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)])
def test_a_folders_files_have_the_umasks_permissions(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "a") as part:
            (part / "below").mkdir()
            save_file({"x": torch.zeros(1)}, part / "below" / "x.safetensors")
            (part / "run.sh").touch(0o700)
    finally:
        os.umask(before)
    weights, script = tmp_path / "a" / "below" / "x.safetensors", tmp_path / "a" / "run.sh"
    assert [path.stat().st_mode & 0o777 for path in (weights, tmp_path / "a")] == [file, folder]
    assert script.stat().st_mode & 0o777 == 0o700 | file


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("")
    original = Path.replace

    def refuse_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("no")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", refuse_new)
    with pytest.raises(OSError, match="no"), whole_folder(tmp_path / "a"):
        pass
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["old"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("stop", [OSError("full"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path, stop: BaseException) -> None:
    write_whole(tmp_path / "file", "old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(type(stop)), whole_file(tmp_path / "file") as file:
        file.write(b"half")
        raise stop
    with pytest.raises(type(stop)), whole_folder(tmp_path / "folder") as part:
        (part / "half").write_text("")
        raise stop
    assert (tmp_path / "file").read_text() == "old" and not list((tmp_path / "folder").iterdir())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]
