"""A hub on this machine: folders served over HTTP as the hub serves repositories, and the ways in which that goes wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download

from sbv2bench.data import remarks

COMMIT = "c" * 40
PATIENT = SimpleNamespace(sleep=lambda _: None, time=time.time, monotonic=time.monotonic)  # waits for nothing
_ERRORS = {401: "", 403: "", "gated": "GatedRepo", "unknown": "RepoNotFound"}


@dataclass
class StandinHub:
    """What the server serves and does, which a test may change; what it was asked.

    repositories: "org/name" -> folder. refused: "org/name" -> 401, 403, "gated" or "unknown". breaks: file name -> how many
    times its connection ends in mid-file. resets: whether it ends by a reset, and not by silence. slow: seconds before an
    answer. asked: (file, first byte) of every GET of a file. pushed: "org/name" -> its files, of what was sent here. answers:
    "create" -> (status, body) in place of the hub's own.
    """

    url: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, int | str] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    resets: bool = False
    slow: float = 0.0
    asked: list[tuple[str, int]] = field(default_factory=list)
    pushed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def fetched(self) -> set[str]:
        """Names of the files that were asked for."""
        return {name for name, _ in self.asked}


def _handler(hub: StandinHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            """What pushing asks: a repository is made, files are said to be sent in the commit, and are."""
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urlsplit(self.path).path
            if path == "/api/repos/create":
                wanted = json.loads(content)
                name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
                hub.pushed.setdefault(name, {})
                return self.send(*hub.answers.get("create", (200, json.dumps({"url": f"{hub.url}/{name}"}).encode())), {}, True)
            preupload = re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path)
            if preupload is not None:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(content)["files"]
                ]
                return self.send(200, json.dumps({"files": files}).encode(), {}, True)
            commit = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path)
            if commit is None:
                return self.send(404, b"", {}, True)
            for line in content.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.pushed[commit[1]][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            found = {"commitUrl": f"{hub.url}/{commit[1]}/commit/{COMMIT}", "commitOid": COMMIT}
            return self.send(200, json.dumps(found).encode(), {}, True)

        def answer(self, body: bool) -> None:
            time.sleep(hub.slow)
            path = unquote(urlsplit(self.path).path)
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            found = api or file
            repository = found[1] if found else ""
            folder = hub.repositories.get(repository)
            if repository in hub.refused or folder is None:
                kind = hub.refused.get(repository, "unknown")
                code = kind if isinstance(kind, int) else {"gated": 403, "unknown": 401}[kind]
                self.send(code, b"", {"X-Error-Code": _ERRORS[kind]} if _ERRORS[kind] else {}, body)
                return
            revision = (api[3] if api else file[2] if file else None) or "main"
            if revision not in {"main", COMMIT}:
                self.send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
            elif api is not None:
                self.send(200, json.dumps(_listing(repository, folder, api[2])).encode(), {}, body)
            elif file is not None and (folder / file[3]).is_file():
                self.send_file(file[3], (folder / file[3]).read_bytes(), body)
            else:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)

        def send(self, code: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(code)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def send_file(self, name: str, content: bytes, body: bool) -> None:
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            headers = {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            start = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if body:
                hub.asked.append((name, start))
            part = content[start:]
            if body and hub.breaks.get(name, 0) > 0:
                hub.breaks[name] -= 1
                self.send_response(206 if start else 200)
                for key, value in (headers | {"Content-Length": str(len(part))}).items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(part[: len(part) // 2])
                self.wfile.flush()
                if hub.resets:
                    time.sleep(0.1)  # so that what was sent is read before the reset
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            self.send(206 if start else 200, part, headers, body)

    return Handler


def _listing(repository: str, folder: Path, what: str | None) -> object:
    files = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file()]
    if what == "tree":
        return [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in files]
    siblings = [{"rfilename": name, "size": size} for name, size in files]
    return {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0, "likes": 0}


@contextmanager
def serving(**repositories: Path) -> Iterator[StandinHub]:
    """A hub on a free port of the loopback device, until the block ends."""
    hub = StandinHub(repositories=dict(repositories))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandinHub]:
    """A hub that serves nothing yet, asked by this process alone, with a cache of its own."""
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # 10 MB by default, and what is short of it is not kept
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(file_download, "time", PATIENT)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(remarks, "said", set())
        yield found


@pytest.fixture
def without_network(standin: StandinHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, this process is offline."""

    def cut() -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        standin.repositories.clear()

    return cut
