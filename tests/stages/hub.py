"""A hub on this machine: the routes that huggingface_hub and datasets call for a data set, over files of a dict."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

NAME = "org/rows"
COMMIT = "abcdef0123456789abcdef0123456789abcdef01"


@dataclass
class Hub:
    """What it holds, how it refuses, and what it was asked for."""

    files: dict[str, bytes]
    name: str = NAME
    refusal: str = ""
    """`GatedRepo`: the listing is public, the files aren't."""
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""


@contextmanager
def serving(hub: Hub, address: str = "127.0.0.1") -> Iterator[Hub]:
    """Answers on a free port of one of this machine's addresses."""

    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer((address, 0), handler)
    hub.url = f"http://{address}:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("Authorization"))
        if path.startswith("/api/datasets/"):
            self._listing(path)
        else:
            self._file(path)

    def do_POST(self) -> None:
        """Of paths-info: what these paths are."""
        sent = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._entries(lambda name: name in sent["paths"])

    def _listing(self, path: str) -> None:
        api = f"/api/datasets/{self.hub.name}"
        if not (path + "/").startswith(api + "/"):
            self._refuse(401, "RepoNotFound")
        elif path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            self._send_json(
                {"id": self.hub.name, "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": []}
            )
        elif not (path + "/").startswith(f"{api}/tree/{COMMIT}/"):
            self._refuse(404, "RevisionNotFound")
        else:
            folder = path.removeprefix(f"{api}/tree/{COMMIT}").removeprefix("/")
            self._entries(lambda name: not folder or name.startswith(folder + "/"))

    def _entries(self, is_asked: Callable[[str], bool]) -> None:
        self._send_json(
            [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in self.hub.files.items()
                if is_asked(n)
            ]
        )

    def _file(self, path: str) -> None:
        name = re.sub(f"^/datasets/{self.hub.name}/resolve/({COMMIT}|main)/", "", path)
        if self.hub.refusal:
            self._refuse(403, self.hub.refusal)
        elif name not in self.hub.files:
            self._refuse(404, "EntryNotFound")
        else:
            data = self.hub.files[name]
            self._send(data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
