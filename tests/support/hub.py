"""A Hugging Face Hub on loopback: it answers the requests of the real client, with faults on demand."""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass
class Repo:
    """A model repository: its commits, its branches and who may read it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    forbidden: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        content = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())})
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha] = files
        self.refs[branch] = sha
        return sha


@dataclass
class Request:
    """A request that was received."""

    method: str
    path: str
    headers: dict[str, str]


class FakeHub:
    """Serves repositories on 127.0.0.1 until the process ends."""

    def __init__(self) -> None:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn_url = f"http://localhost:{self.server.server_port}"  # another host, as the Hub's large files have
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.reset()

    def reset(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.tokens = {"hf_good"}
        self.uploads: dict[str, bytes] = {}
        self.down = False
        # pattern of a path -> a status to answer with, or a function of the body that returns the body to send instead
        # and how many of its bytes to send; status 0 closes the connection
        self.faults: list[tuple[str, int | Callable[[bytes], tuple[bytes, int]]]] = []
        self.delay: Callable[[], None] = lambda: None
        self.answers: dict[str, bytes] = {}  # beginning of a path -> a body that is sent with status 200

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> str:
        repo = self.repos.setdefault(name, Repo(**options))
        return repo.commit(files)

    def fail(self, pattern: str, answer: int | Callable[[bytes], tuple[bytes, int]]) -> None:
        self.faults.append((pattern, answer))

    def fault(self, path: str) -> Any:
        return next((answer for pattern, answer in self.faults if re.search(pattern, path)), None)

    def paths(self, method: str = "") -> list[str]:
        return [request.path for request in self.requests if request.method.startswith(method)]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = urllib.parse.unquote(self.path)
        self.hub.requests.append(
            Request(self.command, path, {name.lower(): value for name, value in self.headers.items()})
        )
        body = self.rfile.read(int(self.headers.get("Content-Length", 0) or 0))
        self.hub.delay()
        fault = self.hub.fault(path)
        if self.hub.down or fault == 0:
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(fault, int):
            self.error(fault, "", "the test asked for it")
            return
        if answer := next((body for start, body in self.hub.answers.items() if path.startswith(start)), None):
            self.send(200, answer, {})
            return
        route = path.partition("?")[0]
        for pattern, handle in (
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.model_info),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"/cdn/([0-9a-f]{64})", self.cdn),
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", self.validate),
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.lfs_batch),
            (r"/upload/([0-9a-f]{64})", self.upload),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
        ):
            match = re.fullmatch(pattern, route)
            if match:
                handle(body, *match.groups())
                return
        self.error(404, "", f"no route {route}")

    # reading

    def allowed(self, name: str) -> Repo | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            self.error(401, "", "Invalid credentials in Authorization header")
            return None
        repo = self.hub.repos.get(name)
        if repo is None:
            self.error(404 if token else 401, "RepoNotFound" if token else "", "Repository not found")
        elif repo.gated:
            self.error(403, "GatedRepo", "Access to this model is restricted")
        elif repo.forbidden:
            self.error(403, "", "Forbidden")
        else:
            return repo
        return None

    def at(self, name: str, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        repo = self.allowed(name)
        if repo is None:
            return None
        sha = repo.refs.get(revision or "main", revision or "")
        if sha not in repo.commits:
            self.error(404, "RevisionNotFound", "Invalid rev id")
            return None
        return sha, repo.commits[sha]

    def model_info(self, _: bytes, name: str, revision: str | None) -> None:
        found = self.at(name, revision)
        if found is None:
            return
        sha, files = found
        siblings = []
        for path, data in files.items():
            sibling: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if path.endswith(LFS_SUFFIXES):
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        self.json({"id": name, "modelId": name, "sha": sha, "private": False, "tags": [], "siblings": siblings})

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        found = self.at(name, revision)
        if found is None:
            return
        sha, files = found
        if path not in files:
            self.error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
            return
        data = files[path]
        if path.endswith(LFS_SUFFIXES):
            digest = hashlib.sha256(data).hexdigest()
            self.hub.uploads[digest] = data
            headers = {
                "X-Repo-Commit": sha,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"{self.hub.cdn_url}/cdn/{digest}",
            }
            self.send(302, b"", headers)
        else:
            self.send(200, data, {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def cdn(self, _: bytes, digest: str) -> None:
        data = self.hub.uploads[digest]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        if wanted and start >= len(data):
            self.error(416, "", "Range Not Satisfiable")
            return
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send(206 if wanted else 200, data[start:], headers)

    # writing

    def create(self, body: bytes) -> None:
        request = json.loads(body)
        name = f"{request.get('organization') or 'me'}/{request['name']}"
        repo = self.hub.repos.setdefault(name, Repo())
        if not repo.commits:
            repo.commit({})
        self.json({"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})

    def validate(self, _: bytes) -> None:
        self.json({"errors": [], "warnings": []})

    def preupload(self, body: bytes, *_: str) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(body)["files"]
        ]
        self.json({"files": modes})

    def lfs_batch(self, body: bytes, _: str) -> None:
        objects = [
            {
                "oid": entry["oid"],
                "size": entry["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/upload/{entry['oid']}"}},
            }
            for entry in json.loads(body)["objects"]
        ]
        self.json({"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")

    def upload(self, body: bytes, digest: str) -> None:
        self.hub.uploads[digest] = body
        self.json({})

    def commit(self, body: bytes, name: str, branch: str) -> None:
        repo = self.allowed(name)
        if repo is None:
            return
        files = dict(repo.commits.get(repo.refs.get(branch, ""), {}))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        sha = repo.commit(files, branch)
        self.json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    # answers

    def error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        extra = {"X-Error-Message": message, **(headers or {})}
        if code:
            extra["X-Error-Code"] = code
        self.send(status, json.dumps({"error": message}).encode(), extra)

    def json(self, value: Any, kind: str = "application/json") -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": kind})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        change = self.hub.fault(urllib.parse.unquote(self.path))
        count = len(body)
        if callable(change):
            body, count = change(body)
        try:
            self.wfile.write(body[:count])
            if count < len(body):
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
        except OSError:  # the client was killed
            self.close_connection = True
