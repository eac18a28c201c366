"""A small Hub for the real client: repositories, commits, large files, permissions and faults."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


# Token -> the namespaces that it may write to, the user's own first.
TOKENS = {"hf_writer": ["writer", "org"], "hf_reader": ["reader"]}
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob(self) -> str:
        return hashlib.sha1(b"blob %d\0%b" % (len(self.content), self.content)).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob

    def entry(self, path: str) -> dict:
        """As in the listing of a repository."""
        lfs = {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}} if self.lfs else {}
        return {"type": "file", "path": path, "size": len(self.content), "oid": self.blob, **lfs}


@dataclass
class Repository:
    private: bool
    heads: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, File], message: str) -> str:
        tree = "".join(f"{path}{file.blob}" for path, file in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}{message}{tree}".encode()).hexdigest()
        self.commits[sha], self.heads[branch] = files, sha
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, File]] | None:
        sha = self.heads.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


@dataclass
class Fault:
    """
    A fault of the next requests of a kind: an error status, a delay in seconds, a connection that breaks after a share
    of the bytes (`cut`), or one that breaks after the work and before the answer (`lost`).
    """

    request: str
    times: int
    status: int | None = None
    seconds: float = 0.0
    cut: float | None = None
    lost: bool = False

    def applies_to(self, request: str) -> bool:
        hit = self.times > 0 and re.search(self.request, request) is not None
        self.times -= hit
        return hit


class LocalHub(ThreadingHTTPServer):
    """
    Attributes:
        repositories (`dict[tuple[str, str], Repository]`): (type, id) -> repository.
        large (`dict[str, bytes]`): SHA-256 -> content of the uploaded large files.
        requests (`list[str]`): method and path of every request, in order.
        received (`list[bytes]`): every received byte, except the header with the token; files are decoded.
        unknown (`list[str]`): requests without a route.
    """

    daemon_threads = True

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Request)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.clear()

    def clear(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.received: list[bytes] = []
        self.unknown: list[str] = []
        self.faults: list[Fault] = []

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """Files of a repository, without those that the Hub adds."""
        _, files = self.repositories[kind, repo_id].at(revision)
        return {path: file.content for path, file in files.items() if path != ".gitattributes"}

    def add_fault(self, request: str, times: int = 1000, **how) -> None:
        """Add a fault for the next `times` requests that match the pattern `request`, `"METHOD /path"`."""
        self.faults.append(Fault(request, times, **how))

    def handle_error(self, request, client_address) -> None:
        pass  # a connection that a fault closed


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per answer; two would wait for each other
    server: LocalHub

    def do_GET(self) -> None:
        hub, path = self.server, urlsplit(self.path).path
        request = f"{self.command} {path}"
        hub.requests.append(request)
        headers = [f"{name}: {value}" for name, value in self.headers.items() if name.lower() != "authorization"]
        hub.received.append("\n".join([self.path, *headers]).encode())
        self.fault = next((fault for fault in hub.faults if fault.applies_to(request)), Fault("", 0))
        size = int(self.headers.get("Content-Length") or 0)
        if self.fault.cut is not None and size:
            hub.received.append(self.rfile.read(int(size * self.fault.cut)))
            return self.hang_up()
        body = self.rfile.read(size)
        hub.received.append(body)
        time.sleep(self.fault.seconds)
        if self.fault.status is not None:
            return self.answer({"error": "a fault of the test"}, self.fault.status)
        for pattern, name in ROUTES:
            found = re.fullmatch(pattern, request)
            if found:
                return getattr(self, name)(
                    body, **{key: unquote(value or "") for key, value in found.groupdict().items()}
                )
        hub.unknown.append(request)
        self.refuse(404, "EntryNotFound")

    do_POST = do_PUT = do_HEAD = do_GET

    # Routes.

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        if not self.spaces:
            return self.refuse(401, message="Invalid username or password.")
        repo_id = f"{asked.get('organization') or self.spaces[0]}/{asked['name']}"
        kind = asked.get("type", "model")
        if not self.may_write(repo_id):
            return self.refuse(403, message=f"You don't have the rights to create a {kind} under this namespace")
        url = {"url": f"{self.server.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"}
        if (kind, repo_id) in self.server.repositories:
            return self.answer({"error": f"You already created this {kind} repo", **url}, 409)
        repository = Repository(asked.get("visibility") == "private")
        repository.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)}, "initial commit")
        self.server.repositories[kind, repo_id] = repository
        self.answer({**url, "name": repo_id, "id": repo_id})

    def validate(self, body: bytes) -> None:
        asked = json.loads(body)
        errors, warnings = check_metadata(asked["content"])
        found = {
            "errors": [{"message": each} for each in errors],
            "warnings": [{"message": each} for each in warnings],
        }
        self.answer(found, 400 if errors else 200)

    def preupload(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        asked = json.loads(body)["files"]
        self.server.received += [base64.b64decode(file["sample"]) for file in asked]
        repository = self.writable(kind, repo_id)
        if repository is None:
            return
        there = (repository.at(revision) or ("", {}))[1]

        def mode(file: dict) -> dict:
            lfs = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
            oid = there[file["path"]].etag if file["path"] in there else None
            return {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}

        self.answer({"files": [{"path": file["path"], **mode(file)} for file in asked]})

    def batch(self, body: bytes, kind: str, repo_id: str) -> None:
        if self.writable(kind or "models", repo_id) is None:
            return
        objects = [{"oid": each["oid"], "size": each["size"]} for each in json.loads(body)["objects"]]
        for each in objects:
            if each["oid"] not in self.server.large:
                each["actions"] = {"upload": {"href": f"{self.server.url}/large/{each['oid']}"}}
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.refuse(400, message="content does not match its hash")
        self.server.large[oid] = body
        self.answer({})

    def branch(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        repository = self.writable(kind, repo_id)
        if repository is None:
            return
        if revision in repository.heads:
            return self.answer({"error": "Reference already exists"}, 409)
        repository.heads[revision] = repository.heads["main"]
        self.answer({})

    def commit(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        repository = self.writable(kind, repo_id)
        if repository is None:
            return
        files = dict(repository.at(revision)[1])
        message = ""
        for entry in map(json.loads, body.splitlines()):
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
                self.server.received.append(files[value["path"]].content)
            elif key == "lfsFile":
                if value["oid"] not in self.server.large:
                    return self.refuse(400, message=f"{value['path']} was never uploaded")
                files[value["path"]] = File(self.server.large[value["oid"]], True)
            else:
                files.pop(value["path"], None)
        pull = "create_pr=1" in self.path
        branch = f"refs/pr/{len(repository.heads)}" if pull else revision
        sha = repository.commit(branch, files, message)
        url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        pulled = {"pullRequestUrl": f"{url}/discussions/{branch.rsplit('/', 1)[-1]}"} if pull else {}
        self.answer({"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}", **pulled})

    def info(self, body: bytes, kind: str, repo_id: str, revision: str = "") -> None:
        found = self.readable(kind, repo_id, revision or "main")
        if found is not None:
            sha, files = found
            private = self.server.repositories[KINDS[kind], repo_id].private
            names = [{"rfilename": path} for path in sorted(files)]
            self.answer({"id": repo_id, "sha": sha, "private": private, "siblings": names, "tags": []})

    def tree(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        found = self.readable(kind, repo_id, revision)
        if found is not None:
            self.answer([file.entry(path) for path, file in sorted(found[1].items())])

    def resolve(self, body: bytes, kind: str, repo_id: str, revision: str, path: str) -> None:
        found = self.readable(kind or "models", repo_id, revision)
        if found is None:
            return
        sha, files = found
        if path not in files:
            return self.refuse(404, "EntryNotFound")
        content, start = files[path].content, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted:
            start = int(wanted[1])
        headers = {"X-Repo-Commit": sha, "ETag": f'"{files[path].etag}"', "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(content[start:], 206 if wanted else 200, "application/octet-stream", headers)

    # Permissions.

    @property
    def spaces(self) -> list[str]:
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "), [])

    def may_write(self, repo_id: str) -> bool:
        return repo_id.split("/")[0] in self.spaces

    def visible(self, kind: str, repo_id: str) -> Repository | None:
        repository = self.server.repositories.get((KINDS[kind.strip("/")], repo_id))
        if repository is None or (repository.private and not self.may_write(repo_id)):
            self.refuse(404 if self.spaces else 401, "RepoNotFound")
            return None
        return repository

    def writable(self, kind: str, repo_id: str) -> Repository | None:
        repository = self.visible(kind, repo_id)
        if repository is not None and not self.may_write(repo_id):
            self.refuse(403, message="you need write access")
            return None
        return repository

    def readable(self, kind: str, repo_id: str, revision: str) -> tuple[str, dict[str, File]] | None:
        repository = self.visible(kind, repo_id)
        if repository is None:
            return None
        found = repository.at(revision)
        if found is None:
            self.refuse(404, "RevisionNotFound")
        return found

    # Answers.

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.answer(
            {"error": message or code}, status, {"X-Error-Code": code} if code else {"X-Error-Message": message}
        )

    def answer(self, content: dict | list, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(content).encode(), status, "application/json", headers or {})

    def send(self, content: bytes, status: int, kind: str, headers: dict[str, str]) -> None:
        if self.fault.lost:
            return self.hang_up()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault.cut is not None:
            self.wfile.write(content[: int(len(content) * self.fault.cut)])
            self.close_connection = True
            return
        self.wfile.write(content)

    def hang_up(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *args) -> None:
        pass


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_PAGE = r"/(?P<kind>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)"
ROUTES: list[tuple[str, str]] = [
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST {_REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    (rf"POST {_PAGE}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /large/(?P<oid>\w+)", "store"),
    (rf"POST {_REPO}/commit/(?P<revision>[^/]+)", "commit"),
    (rf"POST {_REPO}/branch/(?P<revision>[^/]+)", "branch"),
    (rf"GET {_REPO}", "info"),
    (rf"GET {_REPO}/revision/(?P<revision>[^/]+)", "info"),
    (rf"GET {_REPO}/tree/(?P<revision>[^/]+)", "tree"),
    (rf"(?:GET|HEAD) {_PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


def check_metadata(card: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of the Hub for the metadata of a card."""
    found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", card, flags=re.DOTALL)
    if not found:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"YAML: {error}"], []
    if not isinstance(metadata, dict):
        return ["the metadata is no mapping"], []
    return list(_wrong(metadata)), []


def _wrong(metadata: dict) -> Iterator[str]:
    def all_of(name: str, fits: Callable[[str], bool]) -> bool:
        value = metadata.get(name, [])
        return all(isinstance(each, str) and fits(each) for each in (value if isinstance(value, list) else [value]))

    if not all_of(
        "language", lambda code: re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)*|multilingual|code", code) is not None
    ):
        yield '"language" must only contain lowercase ISO 639 codes'
    if not all_of("license", lambda name: re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name) is not None):
        yield '"license" must be one of the known identifiers'
    if not all_of("base_model", _is_repo_id) or not all_of("datasets", _is_repo_id):
        yield '"base_model" and "datasets" must be ids of repositories'
    if not all_of("tags", bool):
        yield '"tags" must be strings'
    for entry in metadata.get("model-index", []):
        if not entry.get("name") or not entry.get("results"):
            yield '"model-index[0].name" and ".results" are required'
        for result in entry.get("results", []):
            metrics = result.get("metrics") or [{}]
            if not result.get("task", {}).get("type") or not {"type", "name"} <= result.get("dataset", {}).keys():
                yield '"model-index[0].results[0].task.type" and ".dataset" are required'
            if not all({"type", "value"} <= metric.keys() for metric in metrics):
                yield '"model-index[0].results[0].metrics[0].type" and ".value" are required'
    for config in metadata.get("configs", []):
        if not {"config_name", "data_files"} <= config.keys():
            yield '"configs[0].config_name" and ".data_files" are required'


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
