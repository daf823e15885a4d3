"""The Hub on loopback, as far as `huggingface_hub` speaks to it: accounts, repositories, branches, LFS and commits.

Files live in memory. Written from what the client sends and expects (huggingface_hub 2.4 with HF_HUB_DISABLE_XET=1):
create, validate-yaml, preupload, LFS batch and upload, NDJSON commit, info, tree, paths-info, refs, branches, and
resolve with redirects to the LFS storage. It can cut uploads off in the middle.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

DATE = "2026-01-01T00:00:00.000Z"
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".bin", ".pt")
LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "other")
LARGEST_REGULAR = 10_000_000


@dataclass(frozen=True)
class Blob:
    """A file's content; of an LFS file git has a pointer only."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        content = pointer.encode() if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)  # commit -> path -> content
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, Blob], message: str) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


class HubServer:
    """A running Hub; `url` is what HF_ENDPOINT is set to.

    `accounts` maps tokens to user names. The next `cuts` uploads break off in the middle.
    """

    def __init__(self) -> None:
        self.accounts = {"hf_owner": "user", "hf_stranger": "stranger"}
        self.repositories: dict[tuple[str, str], Repository] = {}  # ("models", "user/name") -> repository
        self.storage: dict[str, bytes] = {}  # LFS objects by sha256
        self.requests: list[tuple[str, str]] = []
        self.cuts = 0
        server = self

        class Handler(_Handler):
            hub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        # Another host, as on the Hub: redirects to it are where a file's metadata end and its content begins.
        self.storage_url = f"http://localhost:{self._http.server_port}/lfs-storage"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def files(self, repo_id: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """What a branch holds."""
        repository = self.repositories[kind, repo_id]
        return {name: blob.data for name, blob in repository.commits[repository.branches[revision]].items()}

    def create(self, kind: str, repo_id: str, private: bool, files: dict[str, bytes]) -> Repository:
        repository = Repository(private=private)
        self.repositories[kind, repo_id] = repository
        repository.commit("main", {name: Blob(data, is_lfs(name, len(data))) for name, data in files.items()}, "init")
        return repository


def is_lfs(name: str, size: int) -> bool:
    return size > 0 and (name.endswith(LFS_SUFFIXES) or size > LARGEST_REGULAR)


def metadata_errors(content: str) -> list[str]:
    """What the Hub would say of a card's metadata, in small: YAML, licence, base models and a complete model-index."""
    found = re.match(r"\A---\n(.*?)\n---\n", content, re.DOTALL)
    try:
        data = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    errors = []
    if data.get("license", "mit") not in LICENCES:
        errors.append(f'"license" must be one of [{", ".join(LICENCES)}]')
    bases = data.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            errors.append(f'"base_model" with value "{base}" is not valid')
    for index, model in enumerate(data.get("model-index", [])):
        if not isinstance(model.get("name"), str) or not isinstance(model.get("results"), list):
            errors.append(f'"model-index[{index}]" needs "name" and "results"')
            continue
        for result in model["results"]:
            dataset, task = result.get("dataset", {}), result.get("task", {})
            wanted = [dataset.get("name"), dataset.get("type"), task.get("type")]
            for metric in result.get("metrics", [{}]):
                wanted += [metric.get("type")]
                if not isinstance(metric.get("value"), (int, float)):
                    errors.append(f'"model-index[{index}]": a metric has no number')
            if not all(isinstance(one, str) and one for one in wanted):
                errors.append(f'"model-index[{index}]": a name or type is missing')
    return errors


class _Stop(Exception):
    """An answer that ends a request."""

    def __init__(self, status: int, message: str, code: str = "", **content: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.content = status, code, {"error": message, **content}


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # which waits 40 ms before it sends the body after the headers
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    # Reading and answering

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _handle(self) -> None:
        split = urlsplit(self.path)
        path = unquote(split.path) if not split.path.startswith("/api/") else split.path
        self.hub.requests.append((self.command, path))
        if self.command == "PUT" and self.hub.cuts > 0:
            self.hub.cuts -= 1
            self.rfile.read(1000)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self._body()
        try:
            self._route(path, parse_qs(split.query), body)
        except _Stop as stop:
            headers = {"X_Error_Code": stop.code} if stop.code else {}
            self._answer(stop.status, stop.content, X_Error_Message=str(stop), **headers)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _user(self) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return None
        if token not in self.hub.accounts:
            raise _Stop(401, "Invalid credentials in Authorization header")
        return self.hub.accounts[token]

    def _repository(self, kind: str, repo_id: str, write: bool = False) -> Repository:
        user, repository = self._user(), self.hub.repositories.get((kind, repo_id))
        owns = user is not None and repo_id.startswith(f"{user}/")
        if repository is None or (repository.private and not owns):  # which of the two, is not told
            raise _Stop(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and not owns:
            raise _Stop(403, "you don't have the rights to write here")
        return repository

    def _commit(self, repository: Repository, revision: str) -> tuple[str, dict[str, Blob]]:
        oid = repository.find(unquote(revision))
        if oid is None:
            raise _Stop(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.commits[oid]

    # Routes

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        repository = r"(?P<kind>models|datasets)/(?P<repo_id>[^/]+/[^/]+)"
        routes = [
            ("GET", r"/api/whoami-v2", self._whoami),
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", self._validate_yaml),
            ("GET", rf"/api/{repository}(/revision/(?P<revision>[^/]+))?", self._info),
            ("GET", rf"/api/{repository}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", self._tree),
            ("POST", rf"/api/{repository}/paths-info/(?P<revision>[^/]+)", self._paths_info),
            ("GET", rf"/api/{repository}/refs", self._refs),
            ("POST", rf"/api/{repository}/branch/(?P<branch>[^/]+)", self._branch),
            ("POST", rf"/api/{repository}/preupload/(?P<revision>[^/]+)", self._preupload),
            ("POST", rf"/api/{repository}/commit/(?P<revision>[^/]+)", self._make_commit),
            ("POST", r"/(?P<prefix>datasets/)?(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._lfs_batch),
            ("PUT", r"/lfs-storage/(?P<oid>\w+)", self._lfs_upload),
            ("GET", r"/lfs-storage/(?P<oid>\w+)", self._lfs_download),
            (
                "GET",
                r"/(?P<prefix>datasets/)?(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)",
                self._resolve,
            ),
        ]
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, handler in routes:
            if method == wanted and (found := re.fullmatch(pattern, path)):
                return handler(query=query, body=body, **found.groupdict())
        raise _Stop(404, f"{self.command} {path} is not spoken here")

    def _whoami(self, **_: Any) -> None:
        if (user := self._user()) is None:
            raise _Stop(401, "Invalid username or password.")
        self._answer(200, {"type": "user", "name": user, "auth": {"accessToken": {"role": "write"}}})

    def _create(self, body: bytes, **_: Any) -> None:
        given, user = json.loads(body), self._user()
        if user is None:
            raise _Stop(401, "Invalid username or password.")
        repo_id, kind = f"{given.get('organization') or user}/{given['name']}", f"{given.get('type') or 'model'}s"
        if not repo_id.startswith(f"{user}/"):
            raise _Stop(403, "you don't have the rights to create a repository under this namespace")
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"
        if (kind, repo_id) in self.hub.repositories:
            raise _Stop(409, "You already created this repo", url=url)
        self.hub.create(kind, repo_id, given.get("visibility") == "private", {".gitattributes": b"*.safetensors lfs\n"})
        self._answer(200, {"url": url, "name": repo_id})

    def _validate_yaml(self, body: bytes, **_: Any) -> None:
        errors = [{"message": error} for error in metadata_errors(json.loads(body)["content"])]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _info(self, kind: str, repo_id: str, revision: str | None, **_: Any) -> None:
        repository = self._repository(kind, repo_id)
        oid, files = self._commit(repository, revision or "main")
        siblings = [{"rfilename": name} for name in sorted(files)]
        info = {"id": repo_id, "sha": oid, "private": repository.private, "lastModified": DATE, "siblings": siblings}
        self._answer(200, {**info, "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False})

    def _entries(self, files: dict[str, Blob], commit: str, expand: bool) -> list[dict[str, Any]]:
        """Files and folders as the tree names them."""
        last = {"lastCommit": {"id": commit, "title": "commit", "date": DATE}} if expand else {}
        found: list[dict[str, Any]] = []
        folders = {str(parent) for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}
        found += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name, **last} for name in sorted(folders)]
        for name, blob in sorted(files.items()):
            entry = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": name, **last}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 130}
            found.append(entry)
        return found

    def _tree(
        self, kind: str, repo_id: str, revision: str, folder: str | None, query: dict[str, list[str]], **_: Any
    ) -> None:
        commit, files = self._commit(self._repository(kind, repo_id), revision)
        entries = self._entries(files, commit, query.get("expand", ["False"])[0].lower() == "true")
        top = unquote(folder) if folder else "."
        if folder and not any(entry["path"] == top for entry in entries):
            raise _Stop(404, f"{top} does not exist", "EntryNotFound")
        recursive = query.get("recursive", ["False"])[0].lower() == "true"
        inside = [
            entry
            for entry in entries
            if (parents := [str(parent) for parent in PurePosixPath(entry["path"]).parents])
            and (top in parents if recursive else parents[0] == top)
        ]
        self._answer(200, inside)

    def _paths_info(self, kind: str, repo_id: str, revision: str, body: bytes, **_: Any) -> None:
        commit, files = self._commit(self._repository(kind, repo_id), revision)
        given = parse_qs(body.decode())
        entries = self._entries(files, commit, given.get("expand", ["False"])[0].lower() == "true")
        self._answer(200, [entry for entry in entries if entry["path"] in given.get("paths", [])])

    def _refs(self, kind: str, repo_id: str, **_: Any) -> None:
        branches = self._repository(kind, repo_id).branches.items()
        named = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in branches]
        self._answer(200, {"branches": named, "tags": [], "converts": []})

    def _branch(self, kind: str, repo_id: str, branch: str, **_: Any) -> None:
        repository = self._repository(kind, repo_id, write=True)
        if unquote(branch) in repository.branches:
            raise _Stop(409, "Reference already exists")
        repository.branches[unquote(branch)] = repository.branches["main"]
        self._answer(200, {})

    def _preupload(self, kind: str, repo_id: str, revision: str, body: bytes, **_: Any) -> None:
        _, files = self._commit(self._repository(kind, repo_id, write=True), revision)
        answers = []
        for file in json.loads(body)["files"]:
            lfs, there = is_lfs(file["path"], file["size"]), files.get(file["path"])
            answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            answers.append(answer | ({"oid": there.sha256 if there.lfs else there.oid} if there else {}))
        self._answer(200, {"files": answers})

    def _lfs_batch(self, prefix: str | None, repo_id: str, body: bytes, **_: Any) -> None:
        self._repository("datasets" if prefix else "models", repo_id, write=True)
        objects = []
        for one in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.storage_url}/{one['oid']}"}}
            objects.append(one | ({} if one["oid"] in self.hub.storage else {"actions": upload}))
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _lfs_upload(self, oid: str, body: bytes, **_: Any) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Stop(400, "the content is not what was announced")
        self.hub.storage[oid] = body
        self._answer(200)

    def _lfs_download(self, oid: str, **_: Any) -> None:
        if oid not in self.hub.storage:
            raise _Stop(404, "no such object")
        self._answer(200, self.hub.storage[oid], ETag=f'"{oid}"')

    def _make_commit(self, kind: str, repo_id: str, revision: str, body: bytes, **_: Any) -> None:
        repository = self._repository(kind, repo_id, write=True)
        branch = unquote(revision)
        if branch not in repository.branches:
            raise _Stop(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        files, message = dict(repository.commits[repository.branches[branch]]), ""
        for line in body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.storage:
                    raise _Stop(400, f"{value['path']}: its LFS object was never uploaded")
                files[value["path"]] = Blob(self.hub.storage[value["oid"]], lfs=True)
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise _Stop(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise _Stop(400, f"{key} is not spoken here")
        oid = repository.commit(branch, files, message)
        self._answer(200, {"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}", "success": True})

    def _resolve(self, prefix: str | None, repo_id: str, revision: str, file: str, **_: Any) -> None:
        commit, files = self._commit(self._repository("datasets" if prefix else "models", repo_id), revision)
        if file not in files:
            raise _Stop(404, f"{file} does not exist", "EntryNotFound")
        blob, size = files[file], str(len(files[file].data))
        if not blob.lfs:
            return self._answer(200, blob.data, X_Repo_Commit=commit, ETag=f'"{blob.oid}"', Content_Length=size)
        self.hub.storage.setdefault(blob.sha256, blob.data)
        linked = {"X_Linked_Etag": f'"{blob.sha256}"', "X_Linked_Size": size, "X_Repo_Commit": commit}
        self._answer(302, Location=f"{self.hub.storage_url}/{blob.sha256}", **linked)
