"""The sample mirror, served over HTTP on loopback as Alpine's mirror is."""

from __future__ import annotations

import base64
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Mirror:
    """Serves the sample on loopback. `changed` maps a path to other content, None to no file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.changed: dict[str, bytes | None] = {}
        self.requests: list[str] = []
        self.encoding = ""  # as which a .gz is labelled
        self.login = ""  # user:password that it wants
        self.failures = 0  # so many requests get a 503
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requests.append(self.path)
                wanted = f"Basic {base64.b64encode(mirror.login.encode()).decode()}"
                if mirror.failures:
                    mirror.failures -= 1
                    self.send_error(503)
                elif mirror.login and self.headers.get("Authorization") != wanted:
                    self.send_error(401)
                elif self.path not in mirror.changed:
                    super().do_GET()
                elif (data := mirror.changed[self.path]) is None:
                    self.send_error(404)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def end_headers(self) -> None:
                if mirror.encoding and self.path.endswith(".gz"):
                    self.send_header("Content-Encoding", mirror.encoding)
                super().end_headers()

            def translate_path(self, path: str) -> str:
                return str(folder) + path

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that goes away early is part of the tests."""

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def package(self, name: str) -> str:
        """The path of a package."""
        (found,) = self.folder.glob(f"v3.23/main/x86_64/{name}-[0-9]*.apk")
        return f"/{found.relative_to(self.folder)}"

    def content(self, path: str) -> bytes:
        return (self.folder / path[1:]).read_bytes()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
