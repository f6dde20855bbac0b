"""What goes wrong between here and the hub, in words, with what to do about it. No torch here."""

from __future__ import annotations

import errno

from sbv2bench.data.assets import online
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError, SBV2BenchError

_LOGIN = "hf auth login"


def address(repository: str, revision: str | None = None, file: str = "") -> str:
    """A location as it is written in specs: hub:ORG/NAME@REVISION/FILE."""
    return f"hub:{repository}" + (f"@{revision}" if revision else "") + (f"/{file}" if file else "")


def fetching(repository: str, revision: str | None, *files: str, kind: str = "model") -> str:
    """The command that fetches a repository's files, or one."""
    if kind != "model" or len(files) > 1:  # by its own command, which fetches nothing but these
        options = (["--revision", revision] if revision else []) + (["--repo-type", kind] if kind != "model" else [])
        return " ".join([f"{online()}hf download", repository, *files, *options])
    return f"{online()}sbv2bench download {address(repository, revision, *files)}"


def is_a_broken_connection(error: BaseException | None) -> bool:
    """Whether an error is of the network, which another attempt may not have; not an answer that says no."""
    for found in _causes(error):
        if _status(found) is not None:
            return _status(found) in {408, 429, 500, 502, 503, 504}
        if type(found).__module__.partition(".")[0] in {"httpx", "httpx2", "httpcore", "httpcore2", "requests"}:
            return True
        if isinstance(found, ConnectionError | TimeoutError):
            return True
    return False


def explained(error: Exception, repository: str, revision: str | None, kept: str = "") -> Exception:
    """The error to show for one of huggingface_hub's or of its HTTP library; one that is of neither is given back as it is.

    kept: what is on this machine already, in words.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where, fetch, page = address(repository, revision), fetching(repository, revision), f"{constants.ENDPOINT}/{repository}"
    found: SBV2BenchError | None = None
    if isinstance(error, HFValidationError):
        found = InputError(f"hub id: found {repository!r}, expected ORG/NAME")
    for cause in _causes(error) if found is None else ():
        status = _status(cause)
        if isinstance(cause, GatedRepoError) or status == 403:
            who = "its authors give access on request" if isinstance(cause, GatedRepoError) else "your account has no access"
            found = PrerequisiteError(f"{where}: {who} ({status or 403})", f"accept its terms at {page}, then {_LOGIN}")
        elif isinstance(cause, RevisionNotFoundError):
            found = InputError(f"{where}: the hub has no revision {revision or 'main'} of it", fetching(repository, None))
        elif isinstance(cause, RepositoryNotFoundError):
            found = InputError(
                f"{where}: the hub has no such repository, or it is private ({status})", f"{_LOGIN}, if it is private"
            )
        elif status == 401:
            found = PrerequisiteError(f"{where}: the hub asks who you are (401)", _LOGIN)
        elif isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError):
            found = InputError(f"{where}: the hub lacks a file of it ({_first_line(cause)})")
        if found is not None:
            return found
    if is_a_broken_connection(error):
        slow = any("Timeout" in type(cause).__name__ for cause in _causes(error))
        what = "the hub did not answer in time" if slow else f"the connection broke ({_first_line(_causes(error)[-1])})"
        patient = "HF_HUB_DOWNLOAD_TIMEOUT=120 HF_HUB_ETAG_TIMEOUT=120 " if slow else ""
        return PrerequisiteError(f"{where}: {what}" + (f"; {kept}" if kept else ""), patient + fetch)
    if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in _causes(error)):
        return IntegrityError(f"{where}: no room on the disk; {kept}", "export HF_HOME=FOLDER on a disk with more room")
    if found is None and (isinstance(error, OSError) or type(error).__module__.startswith("huggingface_hub")):
        return PrerequisiteError(f"{where}: it could not be fetched ({type(error).__name__}: {_first_line(error)})", fetch)
    return found or error


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and what caused it, the outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error is about, if it is about one."""
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    return status if isinstance(status, int) else None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
