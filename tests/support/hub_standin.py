"""A stand-in for the Hugging Face hub, with the few endpoints that pins and downloads need.

It speaks HTTP on 127.0.0.1, so that tests run the real huggingface_hub on real bytes:

- `GET /api/{models,datasets}/<repository>[/revision/<revision>]`: the commit, and the names of its
  files; everybody sees those of a gated repository, too;
- `GET /api/{models,datasets}/<repository>/tree/<revision>[/<folder>]`: the list of files;
- `HEAD`, `GET /[datasets/]<repository>/resolve/<revision>/<file>`: one file, or a range of its
  bytes, with its ETag and its commit; a file that the hub keeps in Git LFS (here weights) is
  redirected to another host.

All of these redirect the earlier name of a repository to its new one.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

_INFO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?")
_TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LFS = re.compile(r"/lfs/([0-9a-f]{64})")
# Status, headers and body.
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Repository:
    """One repository.

    Attributes:
        commits: The files of each commit, by name.
        revisions: The commits of branches and tags.
        gated: Whether files are refused to requests without the hub's token.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False


class HubStandIn:
    """A hub and its repositories.

    Attributes:
        endpoint: The value to set HF_ENDPOINT to.
        token: The HF_TOKEN that a gated repository requires.
        requests: Method and path of every request so far.
        spoiled: Bytes that are served instead of a file's own, by the file's name.
        breaking: After how many bytes of its body the next download of a file breaks off, by the
            file's name.
    """

    token = "hf_a_token"

    def __init__(self) -> None:
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._renamed: dict[tuple[str, str], str] = {}
        self._blobs: dict[str, tuple[str, bytes]] = {}
        self.requests: list[str] = []
        self.spoiled: dict[str, bytes] = {}
        self.breaking: dict[str, int] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def add(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        kind: str = "models",
        gated: bool = False,
        branch: str = "main",
    ) -> str:
        """Publish files in a repository of `models` or `datasets`; return the commit."""
        content = json.dumps({path: hashlib.sha1(data).hexdigest() for path, data in files.items()})
        commit = hashlib.sha1(content.encode()).hexdigest()
        repository = self._repositories.setdefault((kind, name), Repository())
        repository.commits[commit] = dict(files)
        repository.revisions[branch] = commit
        repository.gated = gated
        return commit

    def commit(self, name: str, *, kind: str = "models") -> str:
        """Return the commit of a repository's branch `main`."""
        return self._repositories[kind, name].revisions["main"]

    def rename(self, old: str, new: str, *, kind: str = "models") -> None:
        """Give a repository another name; requests for the earlier one are redirected."""
        self._repositories[kind, new] = self._repositories.pop((kind, old))
        self._renamed[kind, old] = new

    def forget(self, name: str, commit: str, *, kind: str = "models") -> None:
        """Remove a commit, as a forced push does, with the branches and tags that stand for it."""
        repository = self._repositories[kind, name]
        del repository.commits[commit]
        for revision in [key for key, value in repository.revisions.items() if value == commit]:
            del repository.revisions[revision]

    def answer(self, path: str, authorization: str | None) -> Answer:
        """Return status, headers and body for a path."""
        if match := _LFS.fullmatch(path):
            name, content = self._blobs[match[1]]
            content = self.spoiled.get(name, content)
            return 200, {"ETag": f'"{match[1]}"', "Content-Length": str(len(content))}, content
        if match := _INFO.fullmatch(path):
            kind, name, revision, wanted = match[1], match[2], match[3] or "main", None
        elif match := _TREE.fullmatch(path):
            kind, name, revision, folder, wanted = *match.groups(), None
        elif match := _FILE.fullmatch(path):
            kind = "datasets" if match[1] else "models"
            name, revision, wanted = match[2], match[3], match[4]
        else:
            return _refuse(404, "")
        if new := self._renamed.get((kind, name)):
            return 307, {"Location": path.replace(name, new, 1), "Content-Length": "0"}, b""
        repository = self._repositories.get((kind, name))
        if repository is None:
            # Without a token, the hub does not say whether a repository exists.
            return _refuse(404 if authorization else 401, "RepoNotFound")
        if wanted is not None and repository.gated and authorization != f"Bearer {self.token}":
            said = f"Access to {name} is restricted and you are not in the authorized list."
            return _refuse(403 if authorization else 401, "GatedRepo", X_Error_Message=said)
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            return _refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if _INFO.fullmatch(path):
            siblings = [{"rfilename": file} for file in files]
            return _json({"id": name, "sha": commit, "siblings": siblings})
        if wanted is None:
            inside = f"{folder}/" if folder else ""
            return _json([_listed(at, data) for at, data in files.items() if at.startswith(inside)])
        if wanted not in files:
            return _refuse(404, "EntryNotFound", X_Repo_Commit=commit)
        return self._file(wanted, files[wanted], commit)

    def breaks_after(self, path: str) -> int | None:
        """Return after how many bytes this download breaks off; None if it does not."""
        match = _LFS.fullmatch(path)
        name = self._blobs[match[1]][0] if match else path.rpartition("/")[2]
        return self.breaking.pop(name, None)

    def _file(self, name: str, content: bytes, commit: str) -> Answer:
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if _in_lfs(name):
            digest = hashlib.sha256(content).hexdigest()
            self._blobs[digest] = (name, content)
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            # Redirect to another host, because huggingface_hub handles redirects within the hub on
            # its own.
            away = self.endpoint.replace("127.0.0.1", "localhost")
            headers |= {"Location": f"{away}/lfs/{digest}", "Content-Length": "0"}
            return 302, headers, b""
        headers |= {"ETag": f'"{_git_id(content)}"', "X-Linked-Size": str(len(content))}
        content = self.spoiled.get(name, content)
        return 200, {**headers, "Content-Length": str(len(content))}, content


@contextmanager
def serving() -> Iterator[HubStandIn]:
    """Give a hub that answers until the block ends."""
    standin = HubStandIn()
    thread = threading.Thread(target=standin.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield standin
    finally:
        standin.server.shutdown()
        standin.server.server_close()
        thread.join()


@contextmanager
def hub_here(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[HubStandIn]:
    """Give a hub that huggingface_hub, imported long ago, takes for its own; no cache, no token."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serving() as standin:
        use_endpoint(monkeypatch, standin.endpoint)
        yield standin


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Make huggingface_hub, imported long ago, take an address for the hub's."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def _handler(hub: HubStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(with_body=True)

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def _reply(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            status, headers, body = hub.answer(path, self.headers["Authorization"])
            if status == 200 and (
                asked := re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            ):
                hub.requests[-1] += f" from {asked[1]}"
                status, body = 206, body[int(asked[1]) :]
                headers |= {"Content-Length": str(len(body))}
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                sent = hub.breaks_after(path)
                self.wfile.write(body[:sent])
                self.close_connection = sent is not None

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output clean."""

    return Handler


def _json(content: object) -> Answer:
    body = json.dumps(content).encode()
    return 200, {"Content-Length": str(len(body)), "Content-Type": "application/json"}, body


def _refuse(status: int, code: str, **more: str) -> Answer:
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    return status, {"X-Error-Code": code, "Content-Length": "0", **headers}, b""


def _listed(name: str, content: bytes) -> dict[str, object]:
    size, digest = len(content), hashlib.sha256(content).hexdigest()
    lfs = {"lfs": {"oid": digest, "size": size, "pointerSize": 134}} if _in_lfs(name) else {}
    return {"type": "file", "path": name, "size": size, "oid": _git_id(content), **lfs}


def _in_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
