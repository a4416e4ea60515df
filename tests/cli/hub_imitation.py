"""A Hugging Face Hub on 127.0.0.1 for downloads and uploads, which goes wrong where a test wants it to.

Routes and headers: https://huggingface.co/docs/hub/api and what huggingface_hub 2.4 sends.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hub_uploads import Account, Commit, Uploads

_FAULTS = {
    "RepoNotFound": (401, "Invalid username or password."),
    "GatedRepo": (403, "Access to this model is restricted and you are not in the authorized list."),
    "RevisionNotFound": (404, "Invalid rev id"),
    "EntryNotFound": (404, "Entry not found"),
}


@dataclass
class Repo:
    """A model: its files, who may read them, and how it misbehaves.

    Args:
        gated: only the tokens in ``readers`` get the files; its name and file list are public.
        private: only the tokens in ``readers`` see that it exists.
        declared_bytes: sizes that are announced in place of the true ones.
        status: answer everything with this status, such as 500.
        drop_after: close the connection once after this many bytes of a file.
        branches: their files; those of ``main`` are ``files``.
    """

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    readers: tuple[str, ...] = ()
    declared_bytes: dict[str, int] = field(default_factory=dict)
    status: int = 200
    drop_after: int | None = None
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.branches.setdefault("main", self.files)


class Hub(ThreadingHTTPServer):
    """The server; ``repos`` is what it holds and ``requests`` what it was asked, as (method, path, token)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.tokens = {"hf_goodgoodgoodgoodgoodgood"}
        self.accounts = {token: Account("me") for token in self.tokens}
        self.objects: dict[str, bytes] = {}  # large files, by their sha256
        self.refuses_large_files = False
        self.requests: list[tuple[str, str, str | None]] = []

    def add(self, name: str, **facts) -> None:
        """A new repository, with the file that the true Hub puts into each."""
        self.repos[name] = Repo({".gitattributes": b"*.safetensors filter=lfs\n"}, **facts)

    @property
    def endpoint(self) -> str:
        """The address for ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(Uploads, BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.server.requests.append((self.command, self.path, self.token))
        path = self.path.partition("?")[0]
        if self.token is not None and self.token not in self.server.tokens:
            return self._send(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        general = ((r"/api/whoami-v2", self._whoami), *self.write_routes())
        of_repo = (
            (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._file),
        )
        for pattern, answer in general:
            if re.fullmatch(pattern, path):
                return answer()
        for pattern, answer in self.repo_write_routes() if self.command == "POST" else of_repo:
            if found := re.fullmatch(pattern, path):
                return self._of_repo(answer, *found.groups())
        self._send(404, b"{}")

    def _of_repo(self, answer, name: str, *rest: str | None) -> None:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self.token not in repo.readers):
            return self._fault("RepoNotFound")
        if repo.status != 200:
            return self._send(repo.status, b"{}", {"X-Error-Message": "Something went wrong"})
        if self.command == "POST":
            return answer(name, repo, *rest)
        names = {None: "main"} | {name: branch for branch in repo.branches for name in (branch, commit_of(branch))}
        if rest[0] not in names:
            return self._fault("RevisionNotFound")
        branch = names[rest[0]]
        self.files, self.commit = repo.branches[branch], commit_of(branch)
        answer(name, repo, *rest[1:])

    def _whoami(self) -> None:
        if self.account is None:
            return self._send(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        self._send_json({"name": self.account.name, "type": "user"})

    def _info(self, name: str, repo: Repo) -> None:
        siblings = [{"rfilename": file} for file in self.files]
        facts = {"_id": "1", "id": name, "modelId": name, "sha": self.commit, "private": repo.private, "tags": []}
        self._send_json({**facts, "siblings": siblings})

    def _tree(self, name: str, repo: Repo) -> None:
        folders = {file.rpartition("/")[0] for file in self.files if "/" in file}
        entries = [{"type": "directory", "path": folder, "oid": self.commit, "size": 0} for folder in folders]
        for file, content in self.files.items():
            size = repo.declared_bytes.get(file, len(content))
            entries.append({"type": "file", "path": file, "oid": _sha1(content), "size": size})
        self._send_json(entries)

    def _file(self, name: str, repo: Repo, file: str) -> None:
        if repo.gated and self.token not in repo.readers:
            return self._fault("GatedRepo")
        if file not in self.files:
            return self._fault("EntryNotFound")
        content = self.files[file]
        headers = {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        if file in repo.declared_bytes:
            headers["X-Linked-Size"] = str(repo.declared_bytes[file])
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start is None:
            return self._send(200, content, headers, cut=self._cut(repo))
        first = int(start.group(1))
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self._send(206, content[first:], headers)

    def _cut(self, repo: Repo) -> int | None:
        if self.command == "HEAD":
            return None
        cut, repo.drop_after = repo.drop_after, None
        return cut

    def _fault(self, code: str) -> None:
        status, message = _FAULTS[code]
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def commit_of(branch: str) -> str:
    """The last commit on a branch."""
    return _sha1(branch.encode())


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
