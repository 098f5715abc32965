"""A hub of models on loopback: the few requests that `huggingface_hub` makes, answered from folders."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LoopbackHub:
    """Serves the folders in `root`, `owner/name` each.

    Attributes:
        endpoint: its address.
        fetched: files that were sent, as `owner/name/file`.
    """

    def __init__(self, root: Path):
        self.root, self.fetched = root, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub.answer(self, with_body=False)

            def do_GET(self):
                hub.answer(self, with_body=True)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def names(self, repository: str) -> list[str]:
        folder = self.root / repository
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())

    def answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        parts = request.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and (self.root / "/".join(parts[2:4])).is_dir():
            self._send_json(request, "/".join(parts[2:4]), parts[4:])
        elif parts[2:3] == ["resolve"] and (self.root / "/".join([*parts[:2], *parts[4:]])).is_file():
            self._send_file(request, "/".join(parts[:2]), "/".join(parts[4:]), with_body)
        else:
            self._send(
                request, 404, b"{}", {"X-Error-Code": "EntryNotFound" if parts[2:3] else "RepoNotFound"}
            )

    def _send_json(self, request: BaseHTTPRequestHandler, repository: str, rest: list[str]) -> None:
        if rest[:1] == ["tree"]:
            sizes = {name: (self.root / repository / name).stat().st_size for name in self.names(repository)}
            answer = [{"type": "file", "path": n, "size": s, "oid": "0" * 40} for n, s in sizes.items()]
        else:
            siblings = [{"rfilename": name} for name in self.names(repository)]
            answer = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
            answer |= {"private": False, "tags": [], "downloads": 0, "likes": 0}
        self._send(request, 200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send_file(
        self, request: BaseHTTPRequestHandler, repository: str, name: str, with_body: bool
    ) -> None:
        content = (self.root / repository / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if with_body:
            self.fetched.append(f"{repository}/{name}")
        self._send(request, 200, content, headers, with_body)

    def _send(
        self, request, status: int, body: bytes, headers: dict[str, str], with_body: bool = True
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body and request.command != "HEAD":
            request.wfile.write(body)


@contextmanager
def serving(root: Path) -> Iterator[LoopbackHub]:
    """A hub for the time of a block."""
    hub = LoopbackHub(root)
    try:
        yield hub
    finally:
        hub.close()


def environment(hub: LoopbackHub, home: Path) -> dict[str, str]:
    """Variables that send `huggingface_hub` of another process to this hub."""
    return {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
