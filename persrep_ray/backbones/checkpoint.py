"""Where a checkpoint comes from: a local folder, S3 or the hub. Nothing here needs torch, so drivers check with it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from persrep_ray.storage.cache import cached
from persrep_ray.storage.store import is_remote, open_store

_CONFIGS = ["*config.json"]
_SAFETENSORS = ["*.safetensors", "*.safetensors.index.json"]
_PICKLE = "pytorch_model.bin"
_CONVERSION_TITLE = "Adding `safetensors` variant of this model"  # of the pull requests by the hub's converter
_CONVERTER = "SFconvertbot"
_CONVERTING_S = 900


def folder_or_snapshot(name: str, revision: str | None) -> Path:
    """The local folder `name`, this node's copy of an S3 prefix, or the configs and safetensors of a hub id.

    Where there is only a `pytorch_model.bin`, the hub's own conversion is taken, or the file is converted, once a node.

    Raises FileNotFoundError, whose message is one line, ConfigError for another scheme than s3://, and StorageError.
    """
    if is_remote(name):
        return _with_safetensors(open_store(name).local_copy(""))
    folder = Path(name)
    if folder.is_dir():
        return _with_safetensors(folder.absolute())
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_CONFIGS + _SAFETENSORS))
        if any(folder.glob("*.safetensors")):
            return folder
        if revision is None and (converted := _conversion(name)) is not None:
            return Path(snapshot_download(name, revision=converted, allow_patterns=_CONFIGS + _SAFETENSORS))
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*_CONFIGS, _PICKLE]))
    except Exception as error:  # errors of the HTTP client and of the hub have no common base
        raise FileNotFoundError(hub_problem(error)) from error
    return _with_safetensors(folder)


def check_hub(name: str, revision: str | None, config: str = "config.json") -> None:
    """Makes sure that the hub gives us the checkpoint `name`, if that is a hub id, by fetching its small file `config`.

    Raises FileNotFoundError, whose message is one line that says what to do.
    """
    if name == "embedded" or is_remote(name) or Path(name).is_dir():
        return
    try:
        hf_hub_download(name, config, revision=revision)
    except Exception as error:
        raise FileNotFoundError(hub_problem(error)) from error


def hub_problem(error: Exception) -> str:
    """Why the hub did not give a checkpoint, and what to do, in one line."""
    token = "a token in HF_TOKEN, on every node"
    response = getattr(error, "response", None)
    if isinstance(error, GatedRepoError):
        return f"neither a local folder nor open to everyone: accept its terms on its page of the hub and put {token}"
    if isinstance(error, RevisionNotFoundError):
        return "neither a local folder nor available from the hub: it has no such revision"
    if isinstance(error, RepositoryNotFoundError):
        return f"neither a local folder nor on the hub: check the name or, if it is private, put {token}"
    if isinstance(error, HfHubHTTPError) and response is not None and response.status_code == 429:
        return (
            f"the hub takes no more requests for now (429): wait some minutes, or put {token}, which has a higher limit"
        )
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, LocalEntryNotFoundError):
        cause = "the hub cannot be reached and this machine's cache does not have it; check the network"
    elif isinstance(error, HFValidationError):
        cause = f"there is no such folder, and it is no hub id: {cause}"
    return f"neither a local folder nor available from the hub: {cause}"


def _conversion(name: str) -> str | None:
    """The revision at which the hub's converter has put safetensors into the repository; None if there is none."""
    with suppress(Exception):  # then the file is converted here
        for discussion in HfApi().get_repo_discussions(name, author=_CONVERTER, discussion_type="pull_request"):
            if discussion.title == _CONVERSION_TITLE and discussion.status in ("open", "draft"):
                return discussion.git_reference
    return None


def _with_safetensors(folder: Path) -> Path:
    """`folder`, or, if all its weights are in a pickle, a folder in the cache with the same weights in safetensors."""
    pickle = folder / _PICKLE
    if any(folder.glob("*.safetensors")) or not pickle.is_file():
        return folder
    status = pickle.stat()
    identity = json.dumps([str(pickle.resolve()), status.st_size, status.st_mtime_ns])
    try:
        return cached(f"{hashlib.sha256(identity.encode()).hexdigest()}.checkpoint", lambda to: _convert(folder, to))
    except OSError as error:
        raise FileNotFoundError(str(error)) from error


def _convert(folder: Path, target: Path) -> None:
    """Converts in a process of its own, with limits: to read a pickle is to trust its author more than we do."""
    target.mkdir()
    for config in folder.glob("*config.json"):
        shutil.copyfile(config, target / config.name)
    command = [sys.executable, "-m", "persrep_ray.backbones.conversion", str(folder / _PICKLE)]
    environment = {
        name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
    }
    try:
        done = subprocess.run(
            [*command, str(target / "model.safetensors")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_CONVERTING_S,
        )
        problem = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"] if done.returncode else []
    except subprocess.TimeoutExpired:
        problem = [f"it took longer than {_CONVERTING_S} s"]
    if problem:
        shutil.rmtree(target, ignore_errors=True)
        raise OSError(f"{folder / _PICKLE} cannot be converted to safetensors: {problem[0]}")
