"""A finished export as a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from sbv2bench.data.assets import offline
from sbv2bench.errors import InputError, PrerequisiteError


def check_hub(repository: str) -> None:
    """Whether pushing can be tried: found before the first step, and not hours after it.

    Raises InputError for a name that no repository can have, PrerequisiteError offline or without a token.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push-to-hub {repository}: {str(error).splitlines()[0]}", "--push-to-hub YOU/NAME") from error
    if offline():
        raise PrerequisiteError(f"--push-to-hub {repository}: this process is offline", "unset HF_HUB_OFFLINE SBV2BENCH_OFFLINE")
    if not get_token():
        raise PrerequisiteError(f"--push-to-hub {repository}: no token of the hub is on this machine", "hf auth login")


def push(folder: Path, repository: str) -> str:
    """Make the repository, where it is not there, and put the folder's files in it, by one commit; returns its address.

    Raises PrerequisiteError where the hub does not take them: the export stays, and the same command tries again.
    """
    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        found = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=found.repo_id, folder_path=folder, commit_message=f"{folder.parent.name}, by reference_trainer")
    except (HfHubHTTPError, OSError) as error:
        why = str(error).splitlines()[0]
        raise PrerequisiteError(
            f"--push-to-hub {repository}: the hub did not take it ({why}); the export is whole in {folder}",
            "run the same command again",
        ) from error
    return str(found)
