"""The tasks of `inv`: this file is the entry point and, by `__path__`, the package `tasks`."""

from pathlib import Path

__path__ = [str(Path(__file__).with_suffix(""))]

from invoke.collection import Collection

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
