"""`inv netboot`: files from which machines boot over the network, without a disk."""

from __future__ import annotations

import signal

from invoke.context import Context
from invoke.tasks import task

from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.options import whole_number
from builder.core.output import say
from builder.core.paths import BUILD
from builder.steps.plan import build

NETBOOT_FOLDER = BUILD / "netboot"


@task(
    help={
        "url": "the URL at which machines find the files, such as http://192.168.1.2:8080",
        "tag": "serve the release of this tag, such as v1.2.3, instead of this tree",
        "serve": "serve them on this port of all addresses of this machine, until Ctrl-C",
    }
)
def netboot(c: Context, url: str, tag: str = "", serve: str = "") -> None:
    """Write build/netboot for any web server: point your DHCP server at its boot.ipxe."""
    from builder.core.serve import served
    from builder.releases.make import config_of_tag, store_of, trusted_keys
    from builder.releases.netboot import SCRIPT, STEPS, netboot_arch, require_slot, write_netboot

    if not url.startswith(("http://", "https://")):
        raise UserError(f"--url {url}: wanted a URL such as http://192.168.1.2:8080")
    port = whole_number("serve", serve, 1, 65535) if serve else 0
    config = load_config()
    manifest = None
    if tag:
        config = config_of_tag(config, tag)
        manifest = store_of(config).manifest(config.os.version, trusted_keys())
    netboot_arch(config)
    for step in STEPS:
        build(c, step, config)
    if c.config.run.dry:
        return
    if manifest:
        require_slot(manifest)
    url = url.rstrip("/")
    write_netboot(NETBOOT_FOLDER, url, config.cmdline)
    say(f"{NETBOOT_FOLDER}: serve it as {url}; machines boot {url}/{SCRIPT} by iPXE")
    if port:
        with served(NETBOOT_FOLDER, "", port):
            say(f"serving it at port {port}; Ctrl-C ends that")
            signal.pause()
