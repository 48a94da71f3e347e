"""A hub on this machine: a server that speaks the API of the Hugging Face hub, and a second one for its large files.

It answers as the hub does (status, headers `X-Error-Code`, `X-Linked-Etag`, ...), so that the real `huggingface_hub`
talks to it. Files of weights are in LFS: they are served by redirection from another address, which must not get the
token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_secret_of_this_test"


@dataclass
class Repository:
    """A repository: its commits, each with all of its files."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add files on the main branch."""
        content = {**self.commits.get(self.refs.get("main", ""), {}), **files}
        digest = hashlib.sha1(repr(sorted(content.items())).encode() + bytes(len(self.commits))).hexdigest()
        self.commits[digest] = content
        self.refs["main"] = digest
        return digest

    def resolve(self, revision: str) -> str | None:
        revision = self.refs.get(revision, revision)
        return revision if revision in self.commits else None


@dataclass
class Hub:
    """The state of the server, and what it was asked."""

    url: str = ""
    files_url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of each request to the hub."""
    downloads: list[dict[str, str]] = field(default_factory=list)
    """Headers of each request to the server of large files."""
    break_after: int | None = None
    """The bytes after which the server of large files breaks off."""
    pause: float = 0.0
    """Seconds after every 4,096 bytes of large files."""
    failing: int | None = None
    """The status that the hub answers everything with."""

    def create(self, name: str, files: dict[str, bytes], **options: bool) -> Repository:
        repository = self.repositories[name] = Repository(name, **options)
        repository.commit(files)
        return repository

    def asked(self, method: str, pattern: str) -> list[str]:
        return [path for verb, path, _ in self.requests if verb == method and re.search(pattern, path)]


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def handle_any(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        hub.requests.append((self.command, url.path, {key.lower(): value for key, value in self.headers.items()}))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if hub.failing is not None:
            self.answer(hub.failing)
            return
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {TOKEN}"):
            self.answer(401, {"error": "Invalid"}, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return
        for verb, pattern, function in _ROUTES:
            match = re.fullmatch(pattern, url.path)
            if verb == self.command and match:
                function(self, body, parse_qs(url.query), *(unquote(group) for group in match.groups("")))
                return
        self.answer(404, {"error": f"no route for {self.command} {self.path}"})

    do_GET = do_HEAD = do_POST = handle_any  # noqa: N815

    def answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    @property
    def signed_in(self) -> bool:
        return self.headers.get("Authorization") is not None

    def repository(self, name: str, revision: str = "main") -> tuple[Repository, str] | None:
        """Find a repository and a commit, or answer with the hub's error."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self.signed_in):
            status = 404 if self.signed_in else 401
            self.answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.resolve(revision)
        if commit is None and repository.commits:
            self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit or ""

    def info(self, body: bytes, query: dict[str, list[str]], name: str, revision: str = "") -> None:
        if found := self.repository(name, revision or "main"):
            self.answer(200, _describe(*found, blobs="blobs" in query))

    def listing(self, body: bytes, query: dict[str, list[str]]) -> None:
        author, tags = query.get("author", [""])[0], set(query.get("filter", []))
        chosen = [
            _describe(repository, repository.refs.get("main", ""))
            for repository in self.hub.repositories.values()
            if repository.name.startswith(f"{author}/") and (self.signed_in or not repository.private)
        ]
        self.answer(200, [each for each in chosen if tags <= set(each["tags"])])

    def create(self, body: bytes, query: dict[str, list[str]]) -> None:
        wanted = json.loads(body)
        if not self.signed_in:
            self.answer(401, {"error": "Unauthorized"})
            return
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if name.startswith("others/"):
            self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
            return
        status = 409 if name in self.hub.repositories else 200
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.hub.repositories.setdefault(name, Repository(name, private=private))
        self.answer(status, {"url": f"{self.hub.url}/{name}"})

    def validate(self, body: bytes, query: dict[str, list[str]]) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, query: dict[str, list[str]], name: str, revision: str) -> None:
        files = [
            {"path": file["path"], "uploadMode": "lfs" if is_large(file["path"]) else "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, body: bytes, query: dict[str, list[str]], name: str) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.files_url}/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        self.answer(200, {"objects": objects, "transfer": "basic"})

    def commit(self, body: bytes, query: dict[str, list[str]], name: str, revision: str) -> None:
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        oid = self.hub.repositories[name].commit(files)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, body: bytes, query: dict[str, list[str]], name: str, revision: str, path: str) -> None:
        found = self.repository(name, revision)
        if found is None:
            return
        repository, commit = found
        if path not in repository.commits[commit]:
            self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        if repository.gated and not self.signed_in:
            self.answer(403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
            return
        content = repository.commits[commit][path]
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
        if is_large(path):
            self.hub.objects[digest] = content
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            self.answer(302, None, {**headers, **linked, "Location": f"{self.hub.files_url}/{digest}"})
        else:
            self.answer(200, content, headers)


_NAME = r"([^/]+/[^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", "/api/models", _Handler.listing),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("GET", rf"/api/models/{_NAME}(?:/revision/([^/]+))?", _Handler.info),
    ("HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
)


def _describe(repository: Repository, commit: str, *, blobs: bool = False) -> dict[str, Any]:
    files = repository.commits.get(commit, {})
    siblings: list[dict[str, Any]] = []
    for path, content in files.items():
        siblings.append({"rfilename": path})
        if blobs:
            siblings[-1] |= {"size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            if is_large(path):
                digest = hashlib.sha256(content).hexdigest()
                siblings[-1]["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
    readme = files.get("README.md", b"").decode()
    license_id = re.search(r"(?m)^license: (\S+)$", readme)
    return {
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.partition("/")[0],
        "sha": commit,
        "lastModified": "2026-01-02T03:04:05.000Z",
        "createdAt": "2026-01-02T03:04:05.000Z",
        "private": repository.private,
        "gated": "auto" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [*re.findall(r"(?m)^- (\S+)$", readme), *([f"license:{license_id[1]}"] if license_id else [])],
        "siblings": siblings,
    }


class _FilesHandler(BaseHTTPRequestHandler):
    hub: Hub

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == self.path[1:]
        self.hub.objects[self.path[1:]] = content
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.hub.downloads.append({key.lower(): value for key, value in self.headers.items()})
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        content = self.hub.objects[self.path[1:]]
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        content = content[start:][: self.hub.break_after]
        piece = 4096 if self.hub.pause else max(1, len(content))
        for first in range(0, len(content), piece):
            self.wfile.write(content[first : first + piece])
            time.sleep(self.hub.pause)
        if self.hub.break_after is not None:
            self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run the two servers of a hub."""
    hub = Hub()
    servers = [
        ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {"hub": hub}))
        for handler in (_Handler, _FilesHandler)
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.url, hub.files_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
