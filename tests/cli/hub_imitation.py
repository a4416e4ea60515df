"""A Hugging Face Hub on 127.0.0.1 that answers what a download asks for, and goes wrong where a test wants it to.

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

COMMIT = "0123456789abcdef0123456789abcdef01234567"
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
    """

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    readers: tuple[str, ...] = ()
    declared_bytes: dict[str, int] = field(default_factory=dict)
    status: int = 200
    drop_after: int | None = None


class Hub(ThreadingHTTPServer):
    """The server; ``repos`` is what it holds and ``requests`` what it was asked, as (method, path, token)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.tokens = {"hf_goodgoodgoodgoodgoodgood"}
        self.requests: list[tuple[str, str, str | None]] = []

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


class _Handler(BaseHTTPRequestHandler):
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
        for pattern, answer in (
            (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._file),
        ):
            if found := re.fullmatch(pattern, path):
                return self._of_repo(answer, *found.groups())
        self._send(404, b"{}")

    def _of_repo(self, answer, name: str, revision: str | None, *rest: str) -> None:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self.token not in repo.readers):
            return self._fault("RepoNotFound")
        if repo.status != 200:
            return self._send(repo.status, b"{}", {"X-Error-Message": "Something went wrong"})
        if revision not in (None, "main", COMMIT):
            return self._fault("RevisionNotFound")
        answer(name, repo, *rest)

    def _info(self, name: str, repo: Repo) -> None:
        siblings = [{"rfilename": file} for file in repo.files]
        self._send_json({"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "tags": [], "siblings": siblings})

    def _tree(self, name: str, repo: Repo) -> None:
        folders = {file.rpartition("/")[0] for file in repo.files if "/" in file}
        entries = [{"type": "directory", "path": folder, "oid": COMMIT, "size": 0} for folder in folders]
        for file, content in repo.files.items():
            size = repo.declared_bytes.get(file, len(content))
            entries.append({"type": "file", "path": file, "oid": _sha1(content), "size": size})
        self._send_json(entries)

    def _file(self, name: str, repo: Repo, file: str) -> None:
        if repo.gated and self.token not in repo.readers:
            return self._fault("GatedRepo")
        if file not in repo.files:
            return self._fault("EntryNotFound")
        content = repo.files[file]
        headers = {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
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


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
