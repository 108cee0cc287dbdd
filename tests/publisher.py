"""Tiny releases, signed and served as real ones are, and a node in a folder that pulls them."""

from __future__ import annotations

import functools
import http.server
import json
import random
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from minisign import KeyPair

from builder.releases.chunks import write_slot
from builder.releases.keys import Sign, signed
from builder.releases.store import Store, channel_file
from updater.boot import BootStateFile
from updater.formats import Channel, Manifest
from updater.grubenv import BootState, render
from updater.memory import Memory
from updater.node import Node, System
from updater.settings import Settings
from updater.signature import PublicKey
from updater.source import open_source
from updater.update import Updater

BUILT = 1_800_000_000
NOW = BUILT + 1000
DAY = 86400
SLOT_SIZE = 8 << 20
NAMES = {"os": "belay", "arch": "x86_64"}

# Nodes have a newer Python than some hosts, Debian 12 among them.
needs_filters = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="a node's Python has tarfile.data_filter"
)


def slot_bytes(seed: str, size: int = (5 << 20) + 4096) -> bytes:
    """Bytes of a slot, most of which compress well."""
    source = random.Random(seed)
    return b"".join(source.randbytes(1 << 14).ljust(1 << 19, b"\1") for _ in range(20))[:size]


class Key:
    """A key pair."""

    def __init__(self) -> None:
        pair = KeyPair.generate()
        self._secret = pair.secret_key
        self.public_file = bytes(pair.public_key)
        self.public = PublicKey.parse(self.public_file, "key")

    def sign(self, data: bytes, comment: str = "") -> bytes:
        return signed(self._secret, data, comment)


class Publisher:
    """Publishes releases into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.key = Key()
        self.store = Store(folder)

    def release(
        self, version: str, sign: Sign | None = None, data: bytes = b"", **other: Any
    ) -> Manifest:
        """A release; what is given by name stands in its manifest instead."""
        slot = self.store.folder.parent / f"{version}.img"
        slot.write_bytes(data or slot_bytes(version))
        image = write_slot(slot, self.store.blobs, level=0)
        values = {**NAMES, "version": version, "built": BUILT, "slot": image, "files": {}, **other}
        manifest = Manifest(**values)
        self.store.add_release(manifest, sign or self.key.sign)
        return manifest

    def point(self, version: str, sign: Sign | None = None, **other: Any) -> None:
        """Let a channel point to a release."""
        values = {
            "os": "belay", "channel": "stable", "version": version,
            "manifest": self.store.manifest_digest(version),
            "signed": NOW, "expires": NOW + DAY, **other,
        }  # fmt: skip
        channel = Channel(**values)
        path = self.store.folder / "channels" / channel.channel
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(channel_file(channel, sign or self.key.sign))

    def publish(self, version: str, **other: Any) -> Manifest:
        """Both."""
        manifest = self.release(version)
        self.point(version, **other)
        return manifest


class FileNode:
    """A node whose partitions are files. It runs 1.0.0 in slot a, which is good."""

    def __init__(self, folder: Path, esp: bytes, keys: list[PublicKey]) -> None:
        self.root = folder
        (folder / "proc").mkdir(parents=True)
        (folder / "proc/mounts").write_text("/dev/sda6 /data ext4 rw 0 0\n")
        self.slots = {name: folder / f"slot-{name}" for name in ("a", "b")}
        for name, path in self.slots.items():
            path.write_bytes(slot_bytes(f"old {name}").ljust(SLOT_SIZE, b"\0"))
        (folder / "esp").write_bytes(esp)
        self.boot = BootStateFile(folder / "esp")
        self.boot.write(BootState())
        self.clock, self.clock_is_kept = float(NOW), True
        self.node = Node(
            root=folder,
            system=System("belay", "x86_64", "1.0.0", BUILT),
            settings=Settings(),
            slot="a",
            mode="good",
            partitions={f"slot-{name}": path for name, path in self.slots.items()},
            boot=self.boot,
            keys=keys,
        )
        self.memory = Memory(self.node, lambda: self.clock, lambda: self.clock_is_kept)

    def change(self, **values: Any) -> None:
        """Change what the node is."""
        self.node = self.node._replace(**values)
        self.memory = Memory(self.node, lambda: self.clock, lambda: self.clock_is_kept)

    def updater(self, source: str) -> Updater:
        return Updater(self.node, open_source(source), self.memory, sleep=lambda _: None)

    def update(self, source: str) -> Manifest:
        """Take what the channel has."""
        updater = self.updater(source)
        offer = updater.offered()
        updater.install(offer.manifest)
        return offer.manifest

    def holds(self, slot: str, manifest: Manifest, publisher: Publisher) -> bool:
        """Whether a slot holds a release, bit for bit."""
        wanted = (publisher.store.folder.parent / f"{manifest.version}.img").read_bytes()
        return self.slots[slot].read_bytes().startswith(wanted)

    def state(self) -> dict[str, Any]:
        """All that a refusal must leave alone."""
        trust = self.root / "data/belay/trust.json"
        return {
            "boot": render(self.boot.read()),
            "a": self.slots["a"].read_bytes(),
            "trust": json.loads(trust.read_text().splitlines()[0]) if trust.exists() else None,
        }


Answer = Callable[[http.server.BaseHTTPRequestHandler], bool]


@contextmanager
def served(folder: Path, answer: Answer = lambda _: False) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder with ranges, as web servers do; its URL and the requests that came.

    `answer` may answer a request instead; then it returns True.
    """
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            requests.append(self.path)
            if answer(self):
                return
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data, etag = path.read_bytes(), f'"{path.stat().st_mtime_ns}"'
            if self.headers.get("If-None-Match") == etag:
                self.send_response(304)
                self.end_headers()
                return
            if wanted := self.headers.get("Range"):
                first, last = (int(x) for x in wanted.removeprefix("bytes=").split("-"))
                self.send_response(206)
                end = min(last, len(data) - 1)
                self.send_header("Content-Range", f"bytes {first}-{end}/{len(data)}")
                data = data[first : end + 1]
            else:
                self.send_response(200)
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
