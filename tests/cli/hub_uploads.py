"""The part of the imitated Hub that takes files: repositories, branches, large files and commits.

Routes and payloads: what huggingface_hub 2.4 sends with HF_HUB_DISABLE_XET=1, and
https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass

import yaml

_LARGE = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to.

    Args:
        may_write: False for a token that only reads.
        has_room: False once the storage is used up.
    """

    name: str
    may_write: bool = True
    has_room: bool = True


@dataclass(frozen=True)
class Commit:
    """What a commit brought: title, names of files, and those that it removed."""

    title: str
    added: tuple[str, ...]
    deleted: tuple[str, ...]


class Uploads:
    """Answers to POST and PUT; mixed into the request handler, whose ``server`` and ``_send`` it uses."""

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def do_PUT(self) -> None:
        """A large file, to an address that needs no token, as at the true Hub's storage."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.requests.append(("PUT", self.path, None))
        if self.server.refuses_large_files:
            return self._refuse(403, "The address has expired")
        self.server.objects[oid] = content
        self._send(200, b"")

    def write_routes(self) -> tuple:
        """(pattern, function) of requests that are not about one repository's files."""
        return (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", self._validate),
            (r"/lfs/verify", self._verify),
        )

    def repo_write_routes(self) -> tuple:
        """(pattern, function) of requests that change one repository."""
        return (
            (r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", self._branch),
            (r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self._commit),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
        )

    @property
    def account(self) -> Account | None:
        return self.server.accounts.get(self.token)

    def _forbidden(self, name: str) -> bool:
        """Whether the answer was no."""
        if self.account is None:
            self._refuse(401, "Invalid username or password.")
        elif not self.account.may_write or name.partition("/")[0] != self.account.name:
            self._refuse(403, f"You don't have the rights to write to {name}")
        elif not self.account.has_room:
            self._refuse(403, "Private repository storage limit reached, please upgrade your plan")
        else:
            return False
        return True

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Message": message})

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization'] or (self.account and self.account.name)}/{asked['name']}"
        if self._forbidden(name):
            return
        if name in self.server.repos:
            return self._refuse(409, "You already created this model repo")
        self.server.add(name, private=asked.get("visibility") == "private", readers=(self.token,))
        self._send_json({"url": f"{self.server.endpoint}/{name}"})

    def _validate(self) -> None:
        head = _FRONT_MATTER.match(json.loads(self.body)["content"])
        said = yaml.safe_load(head[1]) if head else {}
        bad = [said[key] for key in ("base_model",) if key in said and not re.fullmatch(r"[\w.-]+/[\w.-]+", said[key])]
        if said.get("license") == "wrong":
            bad.append("license")
        errors = [{"message": f"{value!r} is not valid"} for value in bad]
        answer = json.dumps({"errors": errors, "warnings": []}).encode()
        self._send(400 if errors else 200, answer, {"Content-Type": "application/json"})

    def _branch(self, name: str, repo, branch: str) -> None:
        if self._forbidden(name):
            return
        if branch in repo.branches:
            return self._refuse(409, "Reference already exists")
        repo.branches[branch] = dict(repo.branches["main"])
        self._send_json({})

    def _preupload(self, name: str, repo, branch: str) -> None:
        if self._forbidden(name):
            return
        files = repo.branches[branch]
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
                "oid": _oid(file["path"], files[file["path"]]) if file["path"] in files else None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._send_json({"files": answers})

    def _batch(self, name: str, repo) -> None:
        def answer(asked: dict) -> dict:
            link = {"upload": {"href": f"{self.server.endpoint}/lfs/{asked['oid']}"}}
            link["verify"] = {"href": f"{self.server.endpoint}/lfs/verify"}
            return asked if asked["oid"] in self.server.objects else {**asked, "actions": link}

        self._send_json({"transfer": "basic", "objects": list(map(answer, json.loads(self.body)["objects"]))})

    def _verify(self) -> None:
        asked = json.loads(self.body)
        found = self.server.objects.get(asked["oid"])
        self._send(200 if found is not None and len(found) == asked["size"] else 404, b"{}")

    def _commit(self, name: str, repo, branch: str) -> None:
        if self._forbidden(name):
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        values = {key: [line["value"] for line in lines if line["key"] == key] for key in {x["key"] for x in lines}}
        new = {v["path"]: base64.b64decode(v["content"]) for v in values.get("file", ())}
        new |= {v["path"]: self.server.objects[v["oid"]] for v in values.get("lfsFile", ())}
        gone = tuple(v["path"] for v in values.get("deletedFile", ()))
        files = repo.branches[branch]
        files |= new
        for path in gone:
            del files[path]
        repo.commits.append(Commit(values["header"][0]["summary"], tuple(new), gone))
        self._send_json({"commitUrl": f"{self.server.endpoint}/{name}/commit/{len(repo.commits)}", "commitOid": "1"})


def _oid(name: str, content: bytes) -> str:
    if name.endswith(_LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
