"""A small Hugging Face Hub on a free loopback port, for the real huggingface_hub client.

It keeps repositories as commits, wants a token to write, and answers the routes that creating a repository,
committing (plain or through LFS), listing and downloading use. What it stores can be tampered with.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_token_of_this_test"  # noqa: S105 - of a server that lives as long as a test


@dataclass
class Repo:
    """commits: {sha: {path: content}}; branches: {name: sha}."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = "".join(f"{path}{hashlib.sha1(data).hexdigest()}" for path, data in sorted(files.items()))  # noqa: S324
        text = f"{self.branches.get(branch)}{len(self.commits)}{content}"
        sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - git's
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.sha(revision)]

    def sha(self, revision: str) -> str:
        return revision if revision in self.commits else self.branches[revision]


@dataclass
class Hub:
    """The server's memory. lfs: file endings that go through LFS. log: "METHOD path" of each request."""

    url: str = ""
    lfs: tuple[str, ...] = ()
    repos: dict[str, Repo] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def create(self, repo_id: str, *, private: bool = False) -> Repo:
        repo = self.repos[repo_id] = Repo(private)
        repo.commit("main", {".gitattributes": b"*.onnx filter=lfs\n"})
        return repo

    def tamper(self, repo_id: str, path: str) -> None:
        """Flip the last byte of a file in every commit: as long as before, and not the same."""
        for files in self.repos[repo_id].commits.values():
            if path in files:
                files[path] = files[path][:-1] + bytes([files[path][-1] ^ 1])


class Answer(Exception):
    """Ends a request: a status, a JSON value and headers."""

    def __init__(self, status: int, value: Any = None, **headers: str) -> None:
        self.status, self.value = status, value
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Routes by the first pattern that fits; a route returns JSON, bytes, or raises Answer."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: a test that fails prints what it needs."""

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        try:
            for method, pattern, name in ROUTES:
                if method == self.command and (match := re.fullmatch(pattern, path)):
                    raise Answer(200, getattr(self, name)(*match.groups(), body=body))
            raise Answer(404, {"error": "Not found"})
        except Answer as answer:
            self._send(answer)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, answer: Answer) -> None:
        content, kind, headers = answer.value, "application/octet-stream", dict(answer.headers)
        if isinstance(content, File):
            headers |= content.headers
            content = content.content
        elif not isinstance(content, bytes):
            content, kind = json.dumps(answer.value).encode(), "application/json"
        self.send_response(answer.status)
        for name, text in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def create(self, *, body: bytes) -> dict[str, str]:
        self._writer()
        wanted = json.loads(body)
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        found = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.hub.repos:
            raise Answer(409, found)
        self.hub.create(repo_id, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        return found

    def branch(self, repo_id: str, name: str, *, body: bytes) -> dict[str, str]:
        self._writer()
        repo = self._repo(repo_id)
        if name in repo.branches:
            raise Answer(409, {"error": "Reference already exists"})
        repo.branches[name] = repo.branches["main"]
        return {}

    def validate(self, *, body: bytes) -> dict[str, list[str]]:
        return {"errors": [], "warnings": []}

    def preupload(self, repo_id: str, revision: str, *, body: bytes) -> dict[str, Any]:
        self._writer()
        files = self._files(repo_id, revision)
        answers = []
        for wanted in json.loads(body)["files"]:
            path = wanted["path"]
            lfs = path.endswith(self.hub.lfs) if self.hub.lfs else False
            oid = _oid(files[path], lfs=lfs) if path in files else None
            mode = "lfs" if lfs else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def lfs_batch(self, repo_id: str, *, body: bytes) -> dict[str, Any]:
        self._writer()
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}
            objects.append({**wanted, "actions": {"upload": upload}})
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, oid: str, *, body: bytes) -> dict[str, str]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Answer(400, {"error": "not the announced content"})
        self.hub.uploads[oid] = body
        return {}

    def commit(self, repo_id: str, branch: str, *, body: bytes) -> dict[str, Any]:
        self._writer()
        repo, files = self._repo(repo_id), dict(self._files(repo_id, branch))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(branch, files)
        url = f"{self.hub.url}/{repo_id}/commit/{sha}"
        return {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}

    def head(self, repo_id: str, *, body: bytes) -> dict[str, Any]:
        return self.revision(repo_id, "main", body=body)

    def revision(self, repo_id: str, revision: str, *, body: bytes) -> dict[str, Any]:
        files = self._files(repo_id, revision)
        sha = self.hub.repos[repo_id].sha(revision)
        return {"id": repo_id, "sha": sha, "siblings": [{"rfilename": path} for path in files]}

    def tree(self, repo_id: str, revision: str, *, body: bytes) -> list[dict[str, Any]]:
        files = self._files(repo_id, revision)
        return [
            {"type": "file", "path": path, "size": len(data), "oid": _oid(data, lfs=False)}
            for path, data in files.items()
        ]

    def resolve(self, repo_id: str, revision: str, path: str, *, body: bytes) -> "File":
        data = self._files(repo_id, revision)[path]
        sha = self.hub.repos[repo_id].sha(revision)
        return File(data, {"ETag": f'"{_oid(data, lfs=False)}"', "X-Repo-Commit": sha})

    def _writer(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Answer(
                401,
                {"error": "Invalid credentials"},
                X_Error_Message="Invalid credentials in Authorization header",
            )

    def _repo(self, repo_id: str) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise Answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return repo

    def _files(self, repo_id: str, revision: str) -> dict[str, bytes]:
        repo = self._repo(repo_id)
        if revision not in {*repo.commits, *repo.branches}:
            raise Answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        return repo.files(revision)


@dataclass(frozen=True)
class File:
    content: bytes
    headers: dict[str, str]


def _oid(data: bytes, *, lfs: bool) -> str:
    if lfs:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()  # noqa: S324 - git's


_REPO = r"([^/]+/[^/]+)"
ROUTES = (
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate"),
    ("POST", f"/api/models/{_REPO}/branch/(.+)", "branch"),
    ("POST", f"/api/models/{_REPO}/preupload/(.+)", "preupload"),
    ("POST", f"/{_REPO}\\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", "/lfs/([0-9a-f]+)", "lfs_upload"),
    ("POST", f"/api/models/{_REPO}/commit/(.+)", "commit"),
    ("GET", f"/api/models/{_REPO}", "head"),
    ("GET", f"/api/models/{_REPO}/revision/(.+)", "revision"),
    ("GET", f"/api/models/{_REPO}/tree/(.+)", "tree"),
    ("GET", f"/{_REPO}/resolve/([^/]+)/(.+)", "resolve"),
    ("HEAD", f"/{_REPO}/resolve/([^/]+)/(.+)", "resolve"),
)
