"""What several tests need: the artefacts as they are built, and the tools of the container."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from builder.core.arch import X86_64
from builder.core.config import load_config
from builder.core.paths import BUILD, PROJECT
from builder.disk.layout import Layout, layout
from builder.vm.hardware import free_port
from tests.docker_daemon import NoDaemon, docker_daemon
from tests.mirror import Mirror
from tests.offer import Offer
from tests.programs import program
from tests.project import Nginx, Project, Published

InContainer = Callable[..., str]

# How long an example takes says more of the machine than of the code.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")

# Tests that were started in the background ignore Ctrl-C, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that in the end no worker is alone with a long one."""
    items.sort(key=_minutes, reverse=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Scheduler:
    """Who runs which test when there are several workers."""
    return _Scheduler(config, log)


class _Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """One test after the other to each worker, but to one all that share something."""

    def _split_scope(self, nodeid: str) -> str:
        # Each worker has a daemon of its own, but where one is given: tests look at all it has.
        daemon = ("test_docker.py", "test_shell.py") if "DOCKER_HOST" in os.environ else ()
        for shared in ("test_updates.py", "test_publish.py"), daemon:
            if any(name in nodeid for name in shared):
                return " ".join(shared)
        return nodeid


def _minutes(item: pytest.Item) -> float:
    if mark := item.get_closest_marker("vm"):
        return float(mark.kwargs.get("minutes", 1))
    return 0.1 if item.get_closest_marker("container") else 0.0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test needs is looked at before its fixtures, which may take minutes."""
    if item.get_closest_marker("vm"):
        program(X86_64.qemu)


@pytest.fixture(scope="session")
def artefacts() -> Path:
    """The folder `build/`, with everything in it up to date."""
    from invoke.context import Context

    from builder.steps.plan import build

    build(Context(), "image", load_config())
    return BUILD


@pytest.fixture(scope="session")
def disk_layout(artefacts: Path) -> Layout:
    """Where what lies on `disk.img`."""
    from builder.core.progress import Progress
    from builder.steps.plan import plan_for

    return layout(plan_for(load_config(), ["image"], Progress()).config)


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """The DOCKER_HOST of a daemon; where there can be none, the test is skipped, but not in CI."""
    try:
        with docker_daemon() as host:
            yield host
    except NoDaemon as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def disk_image(artefacts: Path) -> Path:
    """The disk image of the project as it is."""
    return (artefacts / "disk.img").resolve()


@pytest.fixture
def in_container(tmp_path: Path, artefacts: Path) -> InContainer:
    """Runs a shell script in the build container: `in_container(script, name=path)`; its output."""
    from builder.alpine.container import container_root
    from builder.core.progress import Progress
    from builder.engines.bubblewrap import Bubblewrap
    from builder.engines.engine import Job
    from builder.steps.plan import fetched

    config, engine = load_config(), Bubblewrap()
    root = container_root(fetched(config, engine, Progress()), engine)
    output = tmp_path / "container output"

    def run(script: str, **inputs: Path) -> str:
        output.mkdir(exist_ok=True)
        paths = {name: path.resolve() for name, path in inputs.items()}
        job = Job("a look", root, ("/bin/sh", "-euc", script), output, paths)
        return engine.run(job, tmp_path / "look.log")

    return run


@pytest.fixture(scope="session")
def age() -> ModuleType:
    """The module of the site that decrypts secrets."""
    spec = importlib.util.spec_from_file_location("age", PROJECT / "site/age.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """The sample mirror, served over HTTP."""
    from builder.sample.mirror import sample_mirror

    mirror = Mirror(sample_mirror("3.23"))
    yield mirror
    mirror.close()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """1.0.0 on Alpine 3.23.5, of which there is a disk; 1.1.0 on 3.23.6, in channel stable."""
    folder = tmp_path_factory.mktemp("updates")
    project = Project(folder, free_port())
    with Nginx(project.www, project.port, folder / "nginx") as server:
        slots = {"1.0.0": project.release("1.0.0", BELAY_ALPINE_RELEASE="3.23.5")}
        disk = folder / "first.img"
        shutil.copy((project.build / "disk.img").resolve(), disk)
        slots["1.1.0"] = project.release("1.1.0")
        project.upload("--channel", "stable")
        yield Published(project, disk, slots, server)


@pytest.fixture
def offer(tmp_path: Path) -> Offer:
    """A mirror to which the test adds packages."""
    return Offer(tmp_path / "offer")


@pytest.fixture
def offer_project(tmp_path: Path, offer: Offer) -> Iterator[Project]:
    """A clone of the project without a lock, whose packages come from `offer`."""
    server = Mirror(offer.folder)
    project = Project(tmp_path, 1)
    project.env |= {
        "BELAY_ALPINE_MIRROR": server.url,
        "BELAY_ALPINE_KEYS": str(offer.folder / "keys"),
    }
    for lock in project.root.glob("apk*.lock"):
        lock.unlink()
    yield project
    server.close()
