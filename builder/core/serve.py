"""A folder on this machine's network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from builder.core.errors import UserError


@contextmanager
def served(folder: Path, address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Serve a folder over HTTP; the port. Raises UserError where that port can't be had."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        server = ThreadingHTTPServer((address, port), partial(Quiet, directory=str(folder)))
    except OSError as error:
        remedy = "take another, above 1023 if you are not root"
        raise UserError(f"port {port} can't be served: {error.strerror}", remedy) from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
