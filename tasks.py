"""The tasks of `inv`: this file is the entry point and, by `__path__`, the package `tasks`."""

import signal
import sys
from pathlib import Path

IS_MAIN = __name__ == "__main__"
CTRL_C = signal.getsignal(signal.SIGINT)
if IS_MAIN and CTRL_C is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while all is imported, there is nothing to undo

__path__ = [str(Path(__file__).with_suffix(""))]

from invoke.collection import Collection

from builder.core.program import Inv
from tasks import (
    bench,
    build,
    channel,
    cleaning,
    diff,
    doctor,
    fetch,
    graph,
    key,
    netboot,
    node,
    qemu,
    release,
    shell,
    site,
    testing,
    upload,
)

# All tasks, as `./inv` lists them.
GROUPS = {
    "Build": (
        "image",
        "slot",
        "rootfs",
        "modloop",
        "initramfs",
        "chroot",
        "lock",
        "fetch",
        "clean",
    ),
    "Try": ("qemu", "netboot", "release.test", "site.test"),
    "Release": (
        "key.new",
        "key.revoke",
        "key.packages",
        "release",
        "release.verify",
        "release.diff",
        "release.plan",
        "upload",
        "channel.show",
        "channel.promote",
    ),
    "Operate nodes": (
        "node.new",
        "node.image",
        "node.write",
        "site.secret",
        "site.build",
        "site.publish",
    ),
    "Look inside, and work on Belay": (
        "doctor",
        "graph",
        "explain",
        "shell",
        "diff",
        "bench",
        "test",
        "fix",
    ),
}

# Those that say with --dry what they would do, or that change nothing.
DRY = {
    *("image", "slot", "rootfs", "modloop", "initramfs", "chroot", "qemu", "netboot", "site.test"),
    *("upload", "site.publish", "channel.show", "release.verify", "release.diff"),
    *("doctor", "graph", "explain", "diff"),
}

namespace = Collection()
for module in (
    bench,
    build,
    cleaning,
    diff,
    doctor,
    fetch,
    graph,
    netboot,
    qemu,
    shell,
    testing,
    upload,
):
    for name, item in Collection.from_module(module).tasks.items():
        namespace.add_task(item, name)
for module in (channel, key, node, release, site):
    namespace.add_collection(module.namespace, module.__name__.split(".")[-1])

if IS_MAIN:
    signal.signal(signal.SIGINT, CTRL_C)
    Inv(namespace, GROUPS, DRY).run(sys.argv)
