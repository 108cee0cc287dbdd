"""The tasks of `inv`: this file is the entry point and, by `__path__`, the package `tasks`."""

from pathlib import Path

__path__ = [str(Path(__file__).with_suffix(""))]

from invoke.collection import Collection

from tasks import bench, build, cleaning, diff, doctor, fetch, graph, qemu, shell, testing

namespace = Collection()
for module in (bench, build, cleaning, diff, doctor, fetch, graph, qemu, shell, testing):
    for name, item in Collection.from_module(module).tasks.items():
        namespace.add_task(item, name)
