"""Declared downloads against a server on this machine that drops, lies and cannot resume; and a hub laid out in a folder."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from sbv2bench.data import asset_store, transfer
from sbv2bench.data.assets import resolve_location
from sbv2bench.data.digests import file_digest
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.specs import AssetSpec

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """How the server behaves. drops: bytes after which each of the next connections ends."""

    content: bytes = CONTENT
    drops: list[int] = field(default_factory=list)
    ranges: bool = True
    status: int | None = None
    requests: list[str | None] = field(default_factory=list)  # the Range header of each
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    behaviour = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            behaviour.requests.append(wanted)
            if behaviour.status is not None:
                self.send_error(behaviour.status)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and behaviour.ranges else 0
            body = behaviour.content[start:]
            if start and not body:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(behaviour.content) - 1}/{len(behaviour.content)}")
            self.end_headers()
            with suppress(ConnectionError):  # a client that has seen enough hangs up
                self.wfile.write(body[: behaviour.drops.pop(0)] if behaviour.drops else body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    behaviour.url = f"http://127.0.0.1:{http.server_port}/file.bin"
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield behaviour
    http.shutdown()
    http.server_close()


def asset(*urls: str, **more: object) -> AssetSpec:
    return AssetSpec.model_validate(
        {"id": "thing", "filename": "file.bin", "urls": urls, "sha256": SHA256, "bytes": len(CONTENT), **more}
    )


def test_a_download_is_whole_verified_and_told(server: Server, own_home: Path) -> None:
    told: list[tuple[str, int, int]] = []
    thing = asset(server.url)
    with pytest.raises(PrerequisiteError, match=r"file\.bin, 1,280,000 bytes, is not on this machine") as caught:
        asset_store.located(thing)
    assert caught.value.fix == "sbv2bench download thing"
    path = asset_store.fetch(thing, lambda *parts: told.append(parts), pause=0)
    assert path == own_home / "assets" / "files" / SHA256 / "file.bin" == asset_store.located(thing)
    assert path.read_bytes() == CONTENT
    assert told[-1] == ("thing", len(CONTENT), len(CONTENT))
    assert asset_store.fetch(thing, pause=0) == path
    assert server.requests == [None]  # not asked again
    assert resolve_location("asset:thing", assets={"thing": thing}) == path
    assert file_digest(resolve_location("asset:thing", assets={"thing": thing})) == SHA256
    assert not list(path.parent.glob("*.part"))


def test_a_dropped_connection_is_gone_on_from(server: Server) -> None:
    server.drops = [300_000, 500_000]
    assert asset_store.fetch(asset(server.url), pause=0).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=800000-"]


def test_a_later_process_goes_on_from_what_an_earlier_one_left(server: Server) -> None:
    part = asset_store.place(asset()).with_name("file.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    assert asset_store.fetch(asset(server.url), pause=0).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]
    assert not part.exists()


def test_a_part_that_is_whole_already(server: Server) -> None:
    part = asset_store.place(asset()).with_name("file.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert asset_store.fetch(asset(server.url), pause=0).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]


def test_a_server_without_ranges_begins_anew(server: Server) -> None:
    server.ranges, server.drops = False, [300_000]
    assert asset_store.fetch(asset(server.url), pause=0).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-"]


def test_a_server_that_always_drops_gives_up_and_keeps_what_came(server: Server) -> None:
    server.drops = [100_000] + [0] * 20
    with pytest.raises(PrerequisiteError, match=r"attempts failed .*100,000 of 1,280,000") as caught:
        asset_store.fetch(asset(server.url), pause=0)
    assert caught.value.fix == "run the command again to go on from there"
    assert len(server.requests) == 1 + transfer.ATTEMPTS
    server.drops = []
    assert asset_store.fetch(asset(server.url), pause=0).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=100000-"


@pytest.mark.parametrize("change", ["other bytes", "shorter", "longer"])
def test_wrong_bytes_are_refused_and_not_kept(server: Server, change: str) -> None:
    server.content = {"other bytes": b"x" + CONTENT[1:], "shorter": CONTENT[:-1], "longer": CONTENT + b"x"}[change]
    with pytest.raises(IntegrityError) as caught:
        asset_store.fetch(asset(server.url), pause=0)
    assert server.url in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert [path.name for path in asset_store.place(asset()).parent.iterdir() if path.suffix != ".lock"] == []
    server.content = CONTENT
    assert asset_store.fetch(asset(server.url), pause=0).read_bytes() == CONTENT


def test_a_stale_part_of_another_file_heals(server: Server) -> None:
    """Resumed onto foreign bytes the hash is wrong: the part is dropped, and the second URL starts anew."""
    part = asset_store.place(asset()).with_name("file.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"z" * 500)
    assert asset_store.fetch(asset(server.url, server.url), pause=0).read_bytes() == CONTENT
    assert server.requests == ["bytes=500-", None]


def test_the_next_url_is_tried(server: Server) -> None:
    dead = server.url.replace("file.bin", "").replace(server.url.split(":")[2].split("/")[0], "9")
    assert asset_store.fetch(asset(dead, server.url), pause=0).read_bytes() == CONTENT
    server.status = 404
    with pytest.raises(PrerequisiteError, match="404"):
        asset_store.fetch(asset(server.url, sha256="0" * 64), pause=0)
    with pytest.raises(PrerequisiteError, match="no URL") as caught:
        asset_store.fetch(asset(sha256="0" * 64), pause=0)
    assert "--from" in str(caught.value)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "SBV2BENCH_OFFLINE"])
def test_offline_asks_nobody(server: Server, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(PrerequisiteError) as caught:
        asset_store.fetch(asset(server.url), pause=0)
    assert caught.value.fix == "HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 sbv2bench download thing"
    assert server.requests == []


def test_a_users_own_file_is_taken_if_it_hashes_right(tmp_path: Path) -> None:
    mine = tmp_path / "my copy.bin"
    mine.write_bytes(CONTENT)
    path = asset_store.adopt(asset(), mine)
    assert (path, path.read_bytes()) == (asset_store.located(asset()), CONTENT)
    path.unlink()
    assert asset_store.adopt(asset(), tmp_path / "my copy.bin", CONTENT).read_bytes() == CONTENT
    path.unlink()
    mine.write_bytes(CONTENT[:-1] + b"x")
    for content in (None, CONTENT[:-1]):
        with pytest.raises(IntegrityError, match="my copy"):
            asset_store.adopt(asset(), mine, content)
        assert not path.exists()
    with pytest.raises(InputError, match="not a file"):
        asset_store.adopt(asset(), tmp_path)
    assert mine.exists()


def test_a_file_that_was_changed_is_not_used(server: Server) -> None:
    path = asset_store.fetch(asset(server.url), pause=0)
    path.write_bytes(b"x" + CONTENT[1:])
    with pytest.raises(IntegrityError, match="found sha256") as caught:
        asset_store.located(asset(server.url))
    assert f"rm '{path}'" in str(caught.value)


def test_md5_where_nobody_published_more(server: Server) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()
    assert asset_store.fetch(asset(server.url, sha256=None, md5=md5), pause=0).read_bytes() == CONTENT
    with pytest.raises(IntegrityError, match="found md5"):
        asset_store.fetch(asset(server.url, sha256=None, md5="0" * 32), pause=0)


def hub_cache(folder: Path, kind: str, repository: str, revision: str, files: dict[str, bytes]) -> None:
    """A repository in huggingface_hub's own layout: blobs, a snapshot of links to them, a ref."""
    place = folder / f"{kind}s--{repository.replace('/', '--')}"
    for name, content in files.items():
        blob = place / "blobs" / hashlib.sha256(content).hexdigest()
        link = place / "snapshots" / revision / name
        for parent in (blob.parent, link.parent, place / "refs"):
            parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
    (place / "refs" / "main").write_text(revision)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_files_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revision = "a" * 40
    one = AssetSpec.model_validate(
        {"id": "one", "hub": "org/name", "hub_type": kind, "revision": revision, "files": ["weights.pt"], "sha256": SHA256}
    )
    two = one.model_copy(update={"id": "two", "files": ("a/x.json", "a/y.json"), "sha256": None})
    for spec in (one, two):
        with pytest.raises(PrerequisiteError, match=r"org/name") as caught:
            asset_store.located(spec)
        assert f"sbv2bench download {spec.id}" in str(caught.value)
    hub_cache(tmp_path, kind, "org/name", revision, {"weights.pt": CONTENT, "a/x.json": b"[]"})
    assert asset_store.located(one).read_bytes() == CONTENT
    with pytest.raises(PrerequisiteError, match=r"a/y\.json"):
        asset_store.located(two)
    hub_cache(tmp_path, kind, "org/name", revision, {"a/y.json": b"[1]"})
    assert (asset_store.fetch(two) / "a" / "y.json").read_bytes() == b"[1]"
    with pytest.raises(IntegrityError, match="found sha256"):
        asset_store.located(one.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(InputError, match="hub's cache"):
        asset_store.adopt(one, tmp_path / "x")


def test_every_built_in_asset_is_pinned() -> None:
    registry = Registry.load()
    for spec in registry.assets.values():
        assert spec.sha256 or spec.md5 or (spec.revision and len(spec.revision) == 40)
        assert spec.licence
        assert all(url.startswith(("https://", "http://images.cocodataset.org/")) for url in spec.urls)
        assert asset_store.declared(spec.id) == spec
    with pytest.raises(InputError, match="unknown asset"):
        resolve_location("asset:nothing")


@pytest.mark.parametrize(
    "fields",
    [
        {"filename": "x"},
        {"filename": "../x", "sha256": SHA256},
        {"filename": ".x", "sha256": SHA256},
        {"hub": "a/b"},
        {"hub": "a/b", "files": ["x", "y"], "sha256": SHA256},
        {"filename": "x", "sha256": "abc"},
    ],
)
def test_declarations_that_cannot_be_checked(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        AssetSpec.model_validate({"id": "x", **fields})
