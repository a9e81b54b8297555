"""Model folders to and from the Hugging Face Hub.

Exactly the files of a model folder travel, nothing else that lies beside them. A push is one commit: no
revision ever holds half a model. A pull verifies SHA256SUMS, because the Hub's client compares sizes alone.
The token, the cache and the address are huggingface_hub's own (`hf auth login`, HF_TOKEN, HF_HOME,
HF_ENDPOINT, HF_HUB_OFFLINE).
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from dra_serve.cache import cache_folder
from dra_serve.card import write_card
from dra_serve.errors import BadRequest, DraServeError, HubError, ModelFolderError
from dra_serve.exporters.eval_results import HUB_DATASETS, eval_results
from dra_serve.exporters.facts import fact, of_model
from dra_serve.model_folder import CONFIG, FORWARD, GRADIENT, RESULTS, ModelFolder, read_folder
from dra_serve.sums import SUMS, sha256, write_sums

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is imported, below

EVAL_RESULTS = ".eval_results/robustness.yaml"  # the folder's name is the Hub's
FILES = (CONFIG, FORWARD, GRADIENT, "model.safetensors", RESULTS, "README.md", EVAL_RESULTS, SUMS)
"""What is pushed and pulled: the contract of a model folder."""

_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def push(
    folder: Path | str,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Push the model folder to `repo_id` ("org/name") in one commit, and return the commit's URL.

    The folder is verified, its card and `.eval_results` are written anew for this repository, and the copy
    that is uploaded is loaded once before it goes. The folder itself stays as it is. The repository is made
    if there is none, with `private` as given; a file of ours that the folder no longer has leaves the
    repository too.
    revision: a branch, made if there is none; default "main". token: default huggingface_hub's own.

    Raises ModelFolderError naming the file for a folder that is not whole; HubError.
    """
    _check_repo_id(repo_id)
    source = read_folder(folder).path
    with TemporaryDirectory(prefix="dra-serve-push-") as temporary:
        stage = Path(temporary)
        for name in FILES:
            if name != EVAL_RESULTS and (source / name).exists():
                shutil.copyfile(source / name, stage / name)
        write_sums(stage)  # without the files that stay behind
        write_card(stage, repo_id)
        _write_eval_results(read_folder(stage), repo_id, revision)
        read_folder(stage).classifier()
        with _sentences(repo_id, revision):
            return _commit(stage, repo_id, private=private, revision=revision, token=token)


def pull(
    repo_id: str, *, revision: str | None = None, to: Path | str | None = None, token: str | None = None
) -> Path:
    """Return a verified model folder holding `repo_id` ("org/name") at `revision`.

    revision: branch, tag or commit; default "main". to: a new or empty folder to write; by default the
    folder lies in this package's cache, one a commit, sharing its bytes with huggingface_hub's cache.
    What is there already is not fetched again; offline, the last known commit of a branch is used.

    Raises HubError where there is no such repository or revision, where it holds no model of ours, and
    where the Hub cannot be reached; ModelFolderError naming the file that is not what SHA256SUMS says;
    BadRequest for a `to` that holds something.
    """
    _check_repo_id(repo_id)
    if to is not None:
        _check_free(Path(to))
    with _sentences(repo_id, revision):
        from huggingface_hub import snapshot_download

        snapshot = Path(
            snapshot_download(repo_id, revision=revision, token=token, allow_patterns=list(FILES))
        )
        if not (snapshot / SUMS).exists():
            raise HubError(f"{repo_id}: holds no dra_serve model: it has no {SUMS}", field="model")
        if to is not None:
            return _plain_copy(snapshot, Path(to).resolve(), shutil.copyfile)
        folder = cache_folder() / "hub" / repo_id.replace("/", "--") / snapshot.name
        return _verified(folder, snapshot) if folder.exists() else _plain_copy(snapshot, folder, _link)


def _write_eval_results(folder: ModelFolder, repo_id: str, revision: str | None) -> None:
    """Write what receipts of this very model say on data sets that the Hub has; where none do, nothing."""
    from huggingface_hub import constants

    receipts = [
        receipt
        for receipt in of_model(folder.receipts, sha256(folder.path / FORWARD))
        if fact(receipt, "data", "name") in HUB_DATASETS
    ]
    if receipts:
        url = f"{constants.ENDPOINT}/{repo_id}/blob/{revision or 'main'}/{RESULTS}"
        target = folder.path / EVAL_RESULTS
        target.parent.mkdir()
        target.write_text(eval_results(receipts, source_url=url), encoding="utf-8")
        write_sums(folder.path)


def _commit(stage: Path, repo_id: str, *, private: bool, revision: str | None, token: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token

    if not (token or get_token()):
        raise HubError(
            f"{repo_id}: no token for {constants.ENDPOINT}; run `hf auth login`, or set HF_TOKEN",
            field="token",
        )
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    ours = {path.relative_to(stage).as_posix(): path for path in stage.rglob("*") if path.is_file()}
    gone = {*api.list_repo_files(repo_id, revision=revision)} & {*FILES} - ours.keys()
    done = api.create_commit(
        repo_id,
        [
            *(CommitOperationAdd(name, path) for name, path in sorted(ours.items())),
            *(CommitOperationDelete(name) for name in sorted(gone)),
        ],
        commit_message="Push a dra_serve model folder",
        revision=revision,
    )
    return str(done.commit_url)


def _plain_copy(snapshot: Path, folder: Path, copy: Callable[[Path, Path], object]) -> Path:
    """Return `folder`, made of a snapshot's files, which are links into a cache, once they are verified.

    Links are what `read_folder` refuses, and what ONNX Runtime will not follow to external weights.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        stage = Path(temporary) / "folder"
        stage.mkdir()
        for name in FILES:
            if (snapshot / name).exists():
                (stage / name).parent.mkdir(exist_ok=True)
                copy((snapshot / name).resolve(), stage / name)
        _verified(stage, snapshot)
        _move(stage, folder)
    return folder


def _move(stage: Path, folder: Path) -> None:
    if folder.is_dir():  # the user's own empty one: perhaps a mount, or where a shell stands
        for file in stage.iterdir():
            shutil.move(file, folder / file.name)
        return
    try:
        stage.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was quicker, with the same files
            raise


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def _verified(folder: Path, snapshot: Path) -> Path:
    """Return the folder if its sums are right; if not, forget the download: the next pull is a fresh one."""
    try:
        read_folder(folder)
    except ModelFolderError:
        shutil.rmtree(folder, ignore_errors=True)
        for name in FILES:
            for file in ((snapshot / name).resolve(), snapshot / name):
                file.unlink(missing_ok=True)
        raise
    return folder


def _check_repo_id(repo_id: str) -> None:
    if not isinstance(repo_id, str) or not _REPO_ID.fullmatch(repo_id):
        raise HubError(
            f"repository: got {repo_id!r:.80}; a repository on the Hub is ORG/NAME", field="repo_id"
        )


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadRequest("to", given=str(folder), allowed="a folder that is new or empty")


@contextmanager
def _sentences(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one sentence of ours."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    # httpx's HTTPError in huggingface_hub 1, httpx2's in 2: what a request without an answer raises.
    transport = cast(type[Exception], errors.HfHubHTTPError.__bases__[0])
    unreachable = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, transport)
    try:
        yield
    except DraServeError:
        raise
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repo_id}: has no revision {revision!r:.80}", field="revision") from error
    except errors.RepositoryNotFoundError as error:  # gated ones included
        raise HubError(
            f"{repo_id}: no such model repository on {hub}, or it is private and the token may not use it",
            field="repo_id",
        ) from error
    except errors.HfHubHTTPError as error:
        why = error.server_message or error.response.reason_phrase
        raise HubError(f"{repo_id}: {hub} answered {error.response.status_code}, {why}") from error
    except unreachable as error:
        wanted = f"revision {revision}" if revision else "it"
        raise HubError(
            f"{repo_id}: {hub} cannot be reached, and {wanted} is not whole in the cache"
        ) from error
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a full disk, a broken upload, an answer unlike the Hub's
        raise HubError(f"{repo_id}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
