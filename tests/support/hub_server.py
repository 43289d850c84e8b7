"""A hub on this machine: directories over HTTP as a model hub speaks it; it can refuse, and break off midway."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

REVOKED = "hf_revoked"  # a token that no longer is one: refused everywhere


def commit(number: int) -> str:
    """A commit's name."""
    return hashlib.sha1(str(number).encode()).hexdigest()


@dataclass
class Hub:
    """What is served, and what was asked for.

    Attributes:
        revisions: (id, branch or tag or commit) -> (commit, directory).
        gated: ids whose files nobody gets without `token`; `private`: ids that nobody sees without it.
        broken: a file of this name ends after so many bytes, whatever its length says.
        instead: what every request gets as JSON, as from a server that is no hub.
        asked: (method, path) of every request.
    """

    revisions: dict[tuple[str, str], tuple[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    token: str = "hf_right"
    broken: dict[str, int] = field(default_factory=dict)
    instead: bytes | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def add(self, name: str, folder: Path, *, number: int = 1, revisions: tuple[str, ...] = ("main",)) -> str:
        """Serve a directory as a commit of a model that has these names; returns the commit."""
        sha = commit(number)
        for revision in (*revisions, sha):
            self.revisions[name, revision] = sha, folder
        return sha

    def fetched(self) -> set[str]:
        """The names of the files whose content was asked for."""
        return {path.rsplit("/", 1)[1] for method, path in self.asked if method == "GET" and "/resolve/" in path}

    def __enter__(self) -> Hub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append((self.command, path))
        parts = path.split("/")
        if self.hub.instead is not None:
            self._send(200, self.hub.instead, {"Content-Type": "application/json"})
        elif self.headers.get("Authorization") == f"Bearer {REVOKED}":
            self._refuse(401, "", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "")

    def _may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _resolve(self, name: str, revision: str) -> tuple[str, Path] | None:
        """The commit and directory; refuses and gives nothing where there is none to see."""
        known = any(one == name for one, _ in self.hub.revisions)
        if not known or (name in self.hub.private and not self._may()):
            self._refuse(401 if not self._may() else 404, "RepoNotFound")
            return None
        result = self.hub.revisions.get((name, revision))
        if result is None:
            self._refuse(404, "RevisionNotFound")
        return result

    def _api(self, name: str, rest: list[str]) -> None:
        revision = "/".join(rest[1:]) if rest[:1] in (["revision"], ["tree"]) else "main"
        result = self._resolve(name, revision)
        if result is None:
            return
        sha, folder = result
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        if rest[:1] == ["tree"]:
            self._json(
                [
                    {"type": "file", "path": one, "size": path.stat().st_size, "oid": _etag(path)}
                    for one, path in zip(names, files, strict=True)
                ]
            )
        else:
            self._json({"id": name, "sha": sha, "siblings": [{"rfilename": one} for one in names]})

    def _file(self, name: str, revision: str, inside: str) -> None:
        result = self._resolve(name, revision)
        if result is None:
            return
        if name in self.hub.gated and not self._may():
            self._refuse(401, "GatedRepo")
            return
        sha, folder = result
        path = folder / inside
        if not path.is_file():
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
            return
        content, begin = path.read_bytes(), self._begin()
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("X-Repo-Commit", sha)
        self.send_header("Accept-Ranges", "bytes")
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if self.command == "GET":
            end = self.hub.broken.get(inside, len(content))
            self.wfile.write(content[begin:end])
            self.close_connection = end < len(content)

    def _begin(self) -> int:
        """Where a request for the rest of a file begins."""
        asked = self.headers.get("Range", "")
        return int(asked.removeprefix("bytes=").split("-")[0]) if asked.startswith("bytes=") else 0

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, more: dict[str, str] | None = None) -> None:
        self._send(status, b'{"error": "no"}', {"X-Error-Code": code, **(more or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on standard error."""


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
