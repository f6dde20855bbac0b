"""One file over HTTP, resumed where it broke off. What it must hash to is checked by whoever asked for it. No torch here."""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from sbv2bench import __version__
from sbv2bench.errors import IntegrityError, PrerequisiteError

ATTEMPTS = 5  # in a row without a new byte
_CHUNK = 2**20
_TIMEOUT = 60.0  # seconds without a byte
_FOR_GOOD = frozenset({400, 401, 403, 404, 410, 451})  # statuses that another try will not change
# told(done, total): bytes on disk, and in all where the server says it
Told = Callable[[int, int | None], None]


class _Broken(Exception):
    """The connection ended before the file did; another attempt goes on from there."""


def fetch(url: str, part: Path, size: int | None = None, told: Told | None = None, pause: float = 1.0) -> None:
    """Fetch a URL into `part`, going on from the bytes that are there if the server can, from the first if it cannot.

    size: bytes that the file must have; more are refused as they come. pause: seconds before the second attempt, doubled
    for each one after. Raises PrerequisiteError (unreachable, refused), IntegrityError (too long, or no room on the disk).
    """
    failed = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(url, part, before, size, told)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and before:  # nothing after these bytes: they are all, or not of this file
                if size is None or before == size:
                    return
                part.unlink()
            elif error.code in _FOR_GOOD:
                raise PrerequisiteError(f"{url}: the server says {error.code} {error.reason}") from error
            why: object = f"{error.code} {error.reason}"
        except (_Broken, urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            why = getattr(error, "reason", error)
        except OSError as error:  # of the disk: the network's are above
            raise IntegrityError(f"{part}: cannot be written ({error.strerror or error})", "free the disk") from error
        failed = 0 if part.exists() and part.stat().st_size > before else failed + 1
        if failed >= ATTEMPTS:
            raise PrerequisiteError(f"{url}: {failed} attempts failed ({why})", "run the command again to go on from there")
        time.sleep(pause * 2**failed)


def _attempt(url: str, part: Path, start: int, size: int | None, told: Told | None) -> None:
    """One connection: append from `start` where the server sends a part, begin anew where it sends the whole."""
    headers = {"User-Agent": f"sbv2bench/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if answer.status == 206 and not goes_on:
            part.unlink()
            raise _Broken("the server sent another part than was asked for")
        done = start if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length is not None and length.isdecimal() else None
        if size is not None and total is not None and total != size:
            raise IntegrityError(f"{url}: found a file of {total:,} bytes, expected {size:,}")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - done > free:
            raise IntegrityError(f"{part.parent}: found {free:,} bytes free, expected {total - done:,}", "free the disk")
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := answer.read(_CHUNK):
                done += len(chunk)
                if size is not None and done > size:
                    raise IntegrityError(f"{url}: found more than the {size:,} bytes expected")
                file.write(chunk)
                if told is not None:
                    told(done, total or size)
    if total is not None and done < total:
        raise _Broken(f"the connection ended after {done:,} of {total:,} bytes")
