"""Weights in repositories of the Hugging Face hub: ids such as `hf://user/name`, and what the hub tells about them.

Of a repository, only safetensors files are read. What the hub tells about a revision (its commit, and size and SHA-256
of its files) is kept in the cache, so that weights once used are found without a connection. `HF_ENDPOINT` is the
address of another hub, `HF_TOKEN` the token for private repositories; tokens are read from nowhere else.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote

from atrous.errors import AtrousError, did_you_mean
from atrous.files import write_json
from atrous.parsing import parse_json
from atrous.telemetry import import_without_telemetry

log = logging.getLogger("atrous")

TAG = "atrous"
"""The tag of repositories with weights of this package."""
DEFAULT_FILE = "model.safetensors"
"""The file of weights that is read if a repository has several."""
TIMEOUT = 15
"""Seconds that a request to the hub may take."""

_NAME = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
_ID = re.compile(rf"hf:/+(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>refs/pr/\d+|[^/@\s]+))?(?:/(?P<file>.+))?", re.ASCII)
_REVISION = re.compile(r"\w[\w.+=/-]*", re.ASCII)
_FILE = re.compile(r"(?:\w[\w .+=-]*/)*\w[\w .+=-]*\.safetensors", re.ASCII)
_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


class HubUnreachableError(AtrousError):
    """The hub does not answer, or answers with an error of its own."""


@dataclass(frozen=True)
class HubId:
    """An id of weights on the hub: `hf://user/name`, `hf://user/name@revision`, `hf://user/name/file.safetensors`."""

    repo: str
    revision: str = "main"
    """A branch, a tag or a commit."""
    file: str = ""
    """The path of a file in the repository; empty for its only one, or `model.safetensors`."""

    @classmethod
    def parse(cls, text: str) -> HubId:
        """Parse an id.

        Raises: `AtrousError` for an invalid name, revision or file, and for files other than safetensors.
        """
        match = _ID.fullmatch(text.replace("\\", "/"))
        repo = match["repo"] if match else ""
        if match is None or "--" in repo or ".." in repo or repo.endswith(".git") or len(repo) > 96:
            raise AtrousError(
                f"{text}: not an id on the hub; expected hf://user/name, hf://user/name@revision or "
                "hf://user/name/file.safetensors."
            )
        revision, file = unquote(match["revision"] or "main"), match["file"] or ""
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise AtrousError(f"{text}: '{revision}' is not a revision; expected a branch, a tag or a commit.")
        if file and not _FILE.fullmatch(file):
            raise AtrousError(f"{text}: '{file}' is not read from a repository, only .safetensors files are.")
        return cls(repo, revision, file)

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{quote(self.revision, safe='')}"
        return f"hf://{self.repo}{revision}{'/' if self.file else ''}{self.file}"


def is_hub_id(source: str | os.PathLike[str]) -> bool:
    """Tell whether a source of weights is an id on the hub; `Path("hf://user/name")` is one, too."""
    return re.match(r"hf:[/\\]", os.fspath(source)) is not None


@dataclass(frozen=True)
class HubFile:
    """A safetensors file on the hub, and its place in the cache."""

    id: HubId
    commit: str
    size: int
    sha256: str
    path: Path

    @property
    def url(self) -> str:
        """The address of this version of the file."""
        return f"{endpoint()}/{self.id.repo}/resolve/{self.commit}/{quote(self.id.file)}"


@dataclass(frozen=True)
class _Listing:
    """The safetensors files of a revision."""

    commit: str
    files: Mapping[str, tuple[int, str]]
    """Size and SHA-256 by path."""


def endpoint() -> str:
    """Get the address of the hub: `HF_ENDPOINT`, else that of Hugging Face."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def read_token() -> str | None:
    """Read the token from `HF_TOKEN`; None without one."""
    return os.environ.get("HF_TOKEN", "").strip() or None


def import_hub() -> ModuleType:
    """Import `huggingface_hub`, so that it sends no usage data.

    Raises: `AtrousError` if it is not installed.
    """
    module = import_without_telemetry("huggingface_hub", "hub")
    for name in ("constants", "errors", "utils"):
        import_module(f"huggingface_hub.{name}")
    module.constants.HF_HUB_DISABLE_TELEMETRY = True  # read from the environment when someone first imported it
    return module


def hub_api() -> Any:
    """Create the client of the hub, a `huggingface_hub.HfApi` with the token of the environment or none."""
    return import_hub().HfApi(endpoint=endpoint(), token=read_token() or False, **_library())


def download_headers() -> dict[str, str]:
    """Make the headers of a download: the user agent, and the token if there is one."""
    return import_hub().utils.build_hf_headers(token=read_token() or False, **_library())


def _library() -> dict[str, str]:
    return {"library_name": "atrous", "library_version": sys.modules["atrous"].__version__}


def find_hub_file(wanted: HubId, cache: Path, *, online: bool) -> HubFile | None:
    """Find out which file an id means, from the hub or, without a connection, from an earlier answer in the cache.

    A commit never changes, so the hub is not asked about one that is known. None if the hub may not be asked, and did
    not answer earlier.

    Raises: `AtrousError` for what the repository lacks, for repositories that need a token, and without a connection.
    """
    folder = cache / wanted.repo.replace("/", "--")
    listing = _read_listing(folder, wanted.revision)
    if online and (listing is None or not _COMMIT.fullmatch(wanted.revision)):
        try:
            listing = _request_listing(wanted)
            _store_listing(folder, wanted.revision, listing)
        except HubUnreachableError as error:
            if listing is None:
                raise
            log.warning("%s The version of an earlier download is used: commit %s.", error, listing.commit)
    if listing is None:
        return None
    file = _choose_file(wanted, listing)
    size, sha256 = listing.files[file]
    chosen = HubId(wanted.repo, wanted.revision, file)
    return HubFile(chosen, listing.commit, size, sha256, folder / sha256[:16] / file.rpartition("/")[2])


def _choose_file(wanted: HubId, listing: _Listing) -> str:
    files = list(listing.files)
    if wanted.file:
        if wanted.file not in files:
            known = f" Its safetensors files are: {', '.join(files[:8])}." if files else ""
            near = did_you_mean(wanted.file, files) or known
            raise AtrousError(f"hf://{wanted.repo} has no file '{wanted.file}' at {wanted.revision}.{near}")
        return wanted.file
    if not files:
        raise AtrousError(
            f"{wanted}: the repository has no .safetensors file at {wanted.revision}; others are not read."
        )
    if len(files) > 1 and DEFAULT_FILE not in files:
        listed = ", ".join(str(HubId(wanted.repo, wanted.revision, file)) for file in files[:8])
        raise AtrousError(f"{wanted}: the repository has {len(files)} .safetensors files; choose one: {listed}.")
    return DEFAULT_FILE if DEFAULT_FILE in files else files[0]


def _request_listing(wanted: HubId) -> _Listing:
    with hub_errors(str(HubId(wanted.repo, wanted.revision))):
        info = hub_api().model_info(wanted.repo, revision=wanted.revision, files_metadata=True, timeout=TIMEOUT)
        files = {entry.rfilename: (entry.size, entry.lfs) for entry in info.siblings or ()}
        commit = str(info.sha)
    names = [name for name in files if _FILE.fullmatch(name)]
    checked = {}
    for name in names:
        size, lfs = files[name]
        if lfs is None or not _SHA256.fullmatch(lfs.sha256):
            log.info(
                "hf://%s/%s is left out: the hub has no SHA-256 for it, because it is not in LFS.", wanted.repo, name
            )
            continue
        checked[name] = (int(size), str(lfs.sha256))
    if not _COMMIT.fullmatch(commit):
        raise AtrousError(f"{wanted}: {endpoint()} does not tell the commit; check HF_ENDPOINT.")
    return _Listing(commit, checked)


def _listing_path(folder: Path, revision: str) -> Path:
    return folder / "revisions" / f"{quote(revision, safe='')}.json"


def _store_listing(folder: Path, revision: str, listing: _Listing) -> None:
    """Keep a listing by its revision and by its commit; a cache that is not writable keeps none."""
    with suppress(AtrousError):
        for name in {revision, listing.commit}:
            write_json(_listing_path(folder, name), asdict(listing))


def _read_listing(folder: Path, revision: str) -> _Listing | None:
    """Read a listing; None if there is none, or a damaged one."""
    try:
        content = parse_json(_listing_path(folder, revision).read_bytes())
        files = {str(name): (int(size), str(sha256)) for name, (size, sha256) in content["files"].items()}
        valid = all(_FILE.fullmatch(name) and _SHA256.fullmatch(sha256) for name, (_, sha256) in files.items())
        return _Listing(content["commit"], files) if valid and _COMMIT.fullmatch(content["commit"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


@dataclass(frozen=True)
class HubEntry:
    """A repository with weights of this package."""

    id: str
    license: str
    updated: str
    """The day of the last change, or an empty string."""
    private: bool


def list_hub_weights(user: str) -> list[HubEntry]:
    """List the repositories of a user or an organization with the tag `atrous`, which `atrous push` sets.

    Raises: `AtrousError` for an invalid name, and without a connection.
    """
    if not re.fullmatch(_NAME, user, re.ASCII):
        raise AtrousError(f"--hub {user}: expected the name of a user or an organization on the hub.")
    if is_offline():
        raise AtrousError(
            "The repositories of the hub are not listed offline: unset ATROUS_OFFLINE and HF_HUB_OFFLINE."
        )
    with hub_errors(f"{endpoint()}/{user}"):
        models = list(hub_api().list_models(author=user, filter=TAG, full=True))
    licenses = (
        next((tag[8:] for tag in model.tags or () if tag.startswith("license:")), "unknown") for model in models
    )
    return [
        HubEntry(f"hf://{model.id}", name, str(model.last_modified or "")[:10], bool(model.private))
        for model, name in zip(models, licenses, strict=True)
    ]


def is_offline() -> bool:
    """Tell whether connections are disabled by `ATROUS_OFFLINE`, or by the hub's own `HF_HUB_OFFLINE`."""
    hub = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return hub or bool(os.environ.get("ATROUS_OFFLINE"))


@contextmanager
def hub_errors(subject: str) -> Iterator[None]:
    """Translate the errors of the hub's client within this context; `subject` opens the message.

    Raises: `AtrousError`; `HubUnreachableError` without a connection, or for an error of the server.
    """
    errors = import_hub().errors
    try:
        yield
    except AtrousError:
        raise
    except (errors.HfHubHTTPError, errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        cause: BaseException = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise _translate(subject, cause, errors) from error


def _translate(subject: str, error: BaseException, errors: Any) -> AtrousError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return AtrousError(f"{subject}: there is no such revision; check the branch, tag or commit after the @.")
    if isinstance(error, errors.GatedRepoError):
        return AtrousError(f"{subject}: access is restricted; accept the terms on its page, and set HF_TOKEN.")
    if isinstance(error, errors.RepositoryNotFoundError):
        advice = "HF_TOKEN gives no access to it" if read_token() else "it is private: set HF_TOKEN to read those"
        return AtrousError(f"{subject}: there is no such repository on {endpoint()}, or {advice}.")
    if status == 401:
        return AtrousError(f"{subject}: {endpoint()} rejects the token in HF_TOKEN (401). Create another one there.")
    if status == 403:
        return AtrousError(f"{subject}: the token in HF_TOKEN does not permit this (403). Use one with write access.")
    if status is not None and status < 500 and status not in (408, 429):  # too slow, too many requests
        reason = str(getattr(error, "server_message", None) or "no reason stated").splitlines()[0][:200]
        return AtrousError(f"{subject}: {endpoint()} refuses the request ({status}: {reason}).")
    if isinstance(error, ValueError):
        reason = " ".join(str(error).split())[:200]
        return AtrousError(f"{subject}: {endpoint()} refuses the request ({reason}).")
    reason = f"{status}" if status else " ".join(str(error).split())[:120] or type(error).__name__
    return HubUnreachableError(f"{subject}: cannot reach {endpoint()} ({reason}). Check the connection and try again.")
