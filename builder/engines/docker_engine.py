"""The docker engine: jobs as containers of whatever daemon DOCKER_HOST names, a remote one too.

Nothing is mounted from the host: inputs and outputs are streamed. No privileges are added, and
there is no network. The root is loaded as an image once, so nothing is pulled from a registry.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from builder.core import commands
from builder.core.arch import host_arch
from builder.core.commands import CommandError
from builder.core.errors import UserError
from builder.core.files import ABANDONED_AFTER_S, DAY_S, copy_sparse_to, only_one
from builder.engines.engine import BASE_ENV, Job

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image
    from docker.types import Ulimit

LABEL = "belay.job"
ANSWER_WITHIN_S = 5
COPY_SIZE = 1 << 20
UNUSED_AFTER_S = 30 * DAY_S
NEVER = "0001-"  # the year of Go's zero time
PODMAN_HAS = 1 << 15  # processes: it lowers its own limit to that (kernel.pid_max)
CREATED = "1970-01-01T00:00:00Z"  # of every image: its id is to depend on its content alone


class Docker:
    """Runs jobs in containers of a docker daemon."""

    name = "docker"

    @cached_property
    def client(self) -> DockerClient:
        """The daemon. Raises UserError where none answers."""
        import docker
        from docker.errors import DockerException

        try:
            client = docker.from_env(timeout=ANSWER_WITHIN_S)
            client.ping()
            client.api.timeout = None  # a step may take as long as it takes
            _remove_abandoned(client)
        except DockerException as error:
            raise UserError(
                f"no docker daemon answers: {error}",
                'start it, set DOCKER_HOST, or set engine = "bubblewrap" in [build] of image.toml',
            ) from None
        return client

    @cached_property
    def daemon(self) -> str:
        """What answers, for people: `docker 28.2.2`, `podman 4.9.3`."""
        version = self.client.version()
        name = str((version.get("Components") or [{}])[0].get("Name", ""))
        return f"{'podman' if 'Podman' in name else 'docker'} {version['Version']}"

    def check(self) -> str:
        """See Engine.check."""
        return f"{self.daemon} answers"

    @cached_property
    def _limits(self) -> list[Ulimit]:
        """Podman asks for more than it may have where it is limited itself, and then fails."""
        import resource

        from docker.types import Ulimit

        if not self.daemon.startswith("podman"):
            return []
        limits = []
        for name in ("nofile", "nproc"):
            soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
            soft, hard = min(soft, PODMAN_HAS), min(hard, PODMAN_HAS)
            limits.append(Ulimit(name=name, soft=soft, hard=hard))
        return limits

    def describe(self, job: Job) -> list[str]:
        """See Engine.describe."""
        environ = {**BASE_ENV, **job.env}
        words = ["docker", "run", "--rm", "--network", "none", "--workdir", "/srv"]
        words += [word for name, value in environ.items() for word in ("--env", f"{name}={value}")]
        return [*words, self._image_name(job.root), *job.argv]

    def become_shell(self, job: Job) -> NoReturn:
        """See Engine.become_shell. What is in out/ at the end is fetched."""
        from builder.engines.docker_shell import attach

        container = self._create(job, tty=sys.stdin.isatty(), stdin_open=True)
        try:
            container.put_archive("/srv", _archive_of_inputs(job))
            code = attach(container)
            self._fetch(container, job.output)
        finally:
            container.remove(force=True, v=True)
        sys.exit(code)

    def run(self, job: Job, log: Path) -> str:
        """Run `job`; see Engine.run."""
        with _explained(job.name):
            container = self._create(job)
            try:
                with commands.ended_by(container.kill):
                    code, output = self._run(container, job, log)
                if code:
                    raise CommandError(job.name, code, output, log)
                self._fetch(container, job.output)
                return output
            finally:
                # No other step has to wait for that. Python does, before it ends.
                threading.Thread(target=_remove, args=(container,)).start()

    def _create(self, job: Job, **more: bool) -> Container:
        from docker.types import LogConfig

        return self.client.containers.create(
            self._image(job.root),
            list(job.argv),
            environment={**BASE_ENV, **job.env},
            working_dir="/srv",
            hostname="belay",
            network_mode="none",
            log_config=LogConfig(type="none"),
            volumes=["/srv"],
            # Steps install a root there, whose scripts use its device nodes.
            tmpfs={"/tmp": "exec,dev,suid,mode=1777", "/run": "exec"},
            labels={LABEL: job.name},
            ulimits=self._limits,
            **more,
        )

    def _run(self, container: Container, job: Job, log: Path) -> tuple[int, str]:
        container.put_archive("/srv", _archive_of_inputs(job))
        log.parent.mkdir(parents=True, exist_ok=True)
        output = io.BytesIO()
        with log.open("wb") as sink:
            sink.write(f"+ {shlex.join(self.describe(job))}\n".encode())
            stream = container.attach(stream=True, logs=False)
            container.start()
            for data in stream:
                sink.write(data)
                sink.flush()
                output.write(data)
        result: dict[str, Any] = container.wait()
        container.reload()
        code = int(result["StatusCode"])
        if container.attrs["State"].get("OOMKilled"):
            raise UserError(f"{job.name} ran out of memory in docker", "give the daemon more")
        return code, output.getvalue().decode(errors="replace")

    def _fetch(self, container: Container, output: Path) -> None:
        """Bring what the job left in out/; owners are left behind."""
        stream, _ = container.get_archive("/srv/out")
        folders = {}  # their modes come last: one may forbid to write what lies there
        with (
            closing(stream),  # the daemon removes no container that it still sends from
            tarfile.open(fileobj=_Reader(stream), mode="r|", bufsize=COPY_SIZE) as archive,
        ):
            for member in archive:
                path = output / Path(member.name).relative_to("out")
                if member.isdir():
                    path.mkdir(exist_ok=True)
                    folders[path] = member.mode
                elif member.issym():
                    path.symlink_to(member.linkname)
                elif reader := archive.extractfile(member):
                    with path.open("wb") as file:
                        copy_sparse_to(file, reader)
                    path.chmod(member.mode)
        for path, mode in reversed(folders.items()):
            path.chmod(mode)

    @staticmethod
    def _image_name(root: Path) -> str:
        return f"belay:{hashlib.sha256(str(root).encode()).hexdigest()[:16]}"

    def _image(self, root: Path) -> str:
        """The image of a root, loaded if the daemon hasn't got it."""
        from docker.errors import ImageNotFound

        name = self._image_name(root)
        with only_one(name.replace(":", "-")):
            try:
                image = self.client.images.get(name)
                used = _unused_s(image) < DAY_S
            except ImageNotFound:
                _remove_unused_images(self.client)
                (image,) = self.client.images.load(_image_archive(root, name))
                used = False
            if not used:
                image.tag(*name.split(":"))  # the daemon notes when
        return name


@contextmanager
def _explained(step: str) -> Iterator[None]:
    """Errors of the daemon, and of the line to it, as UserErrors. What it left is removed later."""
    from docker.errors import DockerException
    from requests import RequestException

    try:
        yield
    except (DockerException, RequestException) as error:
        if "no space left on device" in str(error):
            remedy = "the disk of the docker daemon is full: make room (docker system prune)"
        else:
            remedy = "the docker daemon went away or refused: see that it runs, run this again"
        raise UserError(f"{step}: {remedy}: {error}") from None


def _remove(container: Container) -> None:
    from docker.errors import DockerException
    from requests import RequestException

    with suppress(DockerException, RequestException):  # what stays is removed later
        container.remove(force=True, v=True)


def _remove_abandoned(client: DockerClient) -> None:
    """Remove the containers of a build that was killed, long ago, before it could do so."""
    for container in client.containers.list(all=True, filters={"label": LABEL}, sparse=True):
        if time.time() - container.attrs["Created"] > ABANDONED_AFTER_S:
            container.remove(force=True, v=True)


def _remove_unused_images(client: DockerClient) -> None:
    """Remove the images of roots with which nobody has built for long."""
    from docker.errors import APIError

    for image in client.images.list("belay"):
        if _unused_s(image) > UNUSED_AFTER_S:
            with suppress(APIError):  # a container has it
                client.images.remove(image.id)


def _unused_s(image: Image) -> float:
    """For how many seconds an image hasn't got its name again; 0 where the daemon doesn't know."""
    noted = str((image.attrs.get("Metadata") or {}).get("LastTagTime") or NEVER)
    if noted.startswith(NEVER):
        return 0
    # In the daemon's time zone; some hours don't matter.
    since = datetime.now(timezone.utc) - datetime.fromisoformat(f"{noted[:19]}+00:00")
    return since.total_seconds()


def _archive_of_inputs(job: Job) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in ("in", "out"):
            archive.addfile(_folder(folder))
        # What an earlier job left in the output folder, which this one goes on with.
        archive.add(job.output, "out", filter=_as_root)
        for name, path in sorted(job.inputs.items()):
            archive.add(path.resolve(), f"in/{name}", filter=_as_root)
    return buffer.getvalue()


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


def _as_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _image_archive(root: Path, name: str) -> bytes:
    """What `docker load` takes: one layer, and a configuration that depends on it alone.

    Format: https://github.com/moby/moby/blob/master/image/spec/v1.2.md
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            archive.add(path, path.relative_to(root), recursive=False, filter=_as_root)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": host_arch().docker,
            "os": "linux",
            "created": CREATED,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": CREATED}],
        },
        sort_keys=True,
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        files = {
            config_name: config,
            "layer.tar": layer.getvalue(),
            "manifest.json": json.dumps(manifest).encode(),
        }
        for file_name, data in files.items():
            info = tarfile.TarInfo(file_name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class _Reader(io.RawIOBase):
    """The chunks of a stream as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")  # a view: cutting pieces off it copies nothing

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return 0
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
