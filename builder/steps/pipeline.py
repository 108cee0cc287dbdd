"""The steps of the build: for each its script, and what goes in.

This is the place to see what depends on what. It is pure: nothing runs here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from builder.alpine import offline
from builder.alpine.apk import options
from builder.alpine.apk_format import INDEX
from builder.alpine.archive import place_of
from builder.alpine.chroot import explain_installation, pack_chroot
from builder.alpine.container import LOADER, LOADER_WORLD, SETTLE
from builder.alpine.initramfs import NET_INITRAMFS, pack_initramfs, pack_net_initramfs
from builder.alpine.numbers import Numbers
from builder.alpine.package_set import PackageSet
from builder.alpine.worlds import INITRAMFS, SYSTEM, node_world
from builder.core import contract
from builder.core.arch import ARCHES, host_arch
from builder.core.config import Config
from builder.core.paths import PROJECT
from builder.disk.assembly import END, HEAD, TAIL, join_disk, join_parts
from builder.disk.boards import DEVICETREES, board_of
from builder.disk.layout import FILES_MIB, derived_guid, grub_config, layout, sfdisk_script
from builder.disk.size import note_size
from builder.steps.overlay import OVERLAY, read_modes, script_lines
from builder.steps.step import Content, Input, Known, Result, Step
from updater.contract import PARTITION_DATA, PARTITION_ESP, PARTITIONS
from updater.grubenv import BootState, render
from updater.settings import Settings, for_shell


def pipeline(config: Config, packages: PackageSet) -> dict[str, Step]:
    """All steps, by name."""
    more = packages_beyond(packages, offline.AVAILABLE)
    steps = [
        chroot(config, packages),
        initramfs(config, packages),
        net_initramfs(config, packages),
        modloop(config),
        *([offline_index(packages, more)] if more else []),
        bytecode(),
        rootfs(config, packages.lock.numbers, more),
        slot(config),
        frame(config, packages),
        image(),
    ]
    arch = config.alpine.arch
    emulated = arch if arch != host_arch().name else ""
    return {step.name: replace(step, emulated=emulated) for step in steps}


CHROOT = Result("chroot", "chroot.tar")
MODULES = Result("chroot", "modules.tar")
NUMBERS = Result("chroot", "chroot.numbers")
CHROOT_MODES = Result("chroot", "chroot.modes")
CHROOT_XATTRS = Result("chroot", "chroot.xattrs")
MICROCODE = Result("chroot", "microcode")
FIRMWARE = Result("chroot", "firmware.list")
SLOT = Result("slot", "slot.img")
CHROOT_PARTS = (NUMBERS, CHROOT_MODES, CHROOT_XATTRS, MICROCODE, FIRMWARE)


def chroot(config: Config, packages: PackageSet) -> Step:
    """The installed packages as a tar, and what is the kernel's among them: its modules, itself."""
    trees = (DEVICETREES,) if board_of(config) else ()
    return Step(
        name="chroot",
        script=PROJECT / "rootfs" / "chroot.sh",
        inputs={
            "settle.sh": SETTLE,
            "packages": Known(packages.folder(SYSTEM), packages.lock.digest(SYSTEM)),
            "keys": Known(packages.keys, ""),  # which key signed a package doesn't change it
        },
        env={
            "WORLD": " ".join(node_world(config)),
            "APK_OPTIONS": " ".join(options(config.alpine.arch)),
        },
        outputs=(
            *("chroot.tar", "modules.tar", "vmlinuz"),
            *(part.file for part in CHROOT_PARTS),
            *trees,
        ),
        finish=pack_chroot,
        note_owners=True,
        explain=explain_installation,
    )


def packages_beyond(packages: PackageSet, world: str) -> Known | None:
    """The packages of a world that the node hasn't installed, if there are any."""
    if world not in packages.lock.packages:
        return None
    folder = packages.folder_beyond(world, SYSTEM)
    return Known(folder, packages.lock.digest(world)) if any(folder.iterdir()) else None


def initramfs(config: Config, packages: PackageSet) -> Step:
    """What the kernel runs first: it finds the slot."""
    folder = PROJECT / "initramfs"
    more = packages_beyond(packages, INITRAMFS)
    more_inputs = {"packages": more, "keys": Known(packages.keys, "")} if more else {}
    return Step(
        name="initramfs",
        script=folder / "initramfs.sh",
        inputs={
            "chroot.tar": CHROOT,
            "modules.tar": MODULES,
            "init": folder / "init",
            "features": folder / "features",
            **more_inputs,
        },
        env={
            "FEATURES": " ".join(config.boot.features),
            "PACKAGES": " ".join(config.boot.packages),
            "APK_OPTIONS": " ".join(options(config.alpine.arch)),
        },
        outputs=("initramfs",),
        finish=pack_initramfs,
        host_inputs={"microcode": MICROCODE},
    )


def net_initramfs(config: Config, packages: PackageSet) -> Step:
    """The same for boots from the network: with drivers of network cards."""
    step = initramfs(config, packages)
    return replace(
        step,
        name="net-initramfs",
        env={**step.env, "FEATURES": " ".join([*config.boot.features, "network", "dhcp"])},
        outputs=(NET_INITRAMFS,),
        finish=pack_net_initramfs,
    )


def modloop(config: Config) -> Step:
    """The slot's modloop part: kernel modules, and the firmware they ask for."""
    folder = PROJECT / "modloop"
    own = OVERLAY / "lib" / "firmware"
    own_inputs: dict[str, Input] = {"overlay-firmware": own} if own.is_dir() else {}
    return Step(
        name="modloop",
        script=folder / "modloop.sh",
        inputs={
            "modules.tar": MODULES,
            "firmware.list": FIRMWARE,
            "firmware.awk": folder / "firmware.awk",
            "firmware": Content("".join(f"{f}\n" for f in config.modloop.firmware).encode()),
            "pc": folder / "pc",
            **own_inputs,
        },
        env={"MODULES": " ".join(config.modloop.modules)},
        outputs=("modloop.squashfs", "modloop.size", "modloop.sizes"),
        finish=note_size,
    )


def offline_index(packages: PackageSet, more: Known) -> Step:
    """The index of the offline packages, signed."""
    key = offline.key_file()
    return Step(
        name="offline",
        script=PROJECT / "rootfs" / "offline.sh",
        inputs={"packages": more, "keys": Known(packages.keys, "")},
        outputs=(INDEX,),
        finish=offline.write_repository_index,
        host_inputs={"key": Known(key, key.name)},
    )


def bytecode() -> Step:
    """The updater and what it imports, compiled: that takes longer than all the rest of rootfs."""
    folder = PROJECT / "rootfs"
    return Step(
        name="bytecode",
        script=folder / "bytecode.sh",
        inputs={
            "chroot.tar": CHROOT,
            "updater": PROJECT / "updater",
            "bytecode.py": folder / "bytecode.py",
        },
        outputs=("bytecode.tar",),
    )


def rootfs(config: Config, numbers: Numbers, more: Known | None = None) -> Step:
    """The slot's root part: the packages, `rootfs/overlay`, and `more` offline packages."""
    folder = PROJECT / "rootfs"
    offline_inputs: dict[str, Input] = (
        {"offline": more, INDEX: Result("offline", INDEX)} if more else {}
    )
    settings = Settings(**asdict(config.update), log=config.node.log)
    return Step(
        name="rootfs",
        script=folder / "rootfs.sh",
        inputs={
            "chroot.tar": CHROOT,
            "overlay": folder / "overlay",
            "overlay.modes": Content(script_lines(read_modes())),
            "chroot.modes": CHROOT_MODES,
            "chroot.xattrs": CHROOT_XATTRS,
            "numbers": Content(numbers.lines().encode()),
            "numbers.awk": folder / "numbers.awk",
            "services": folder / "services",
            "updater": PROJECT / "updater",
            "bytecode.tar": Result("bytecode", "bytecode.tar"),
            "release.json": _json(
                os=config.os.name,
                arch=config.alpine.arch,
                version=config.os.version,
                built=config.os.built,
            ),
            "settings.json": _json(**settings._asdict()),
            "disk-guid": Content(f"{derived_guid(config, 'disk')}\n".encode()),
            "contract.sh": Content(contract.for_shell().encode()),
            "settings": Content(for_shell(settings).encode()),
            **offline_inputs,
        },
        env={
            "OS_NAME": config.os.name,
            "OS_VERSION": config.os.version,
            "OS_BUILT": str(config.os.built),
            "STICK_LABEL": config.update.stick,
            "NODE_LABEL": config.node.label,
            "CONSOLE": config.login.console,
            "SERIAL": config.serial if config.login.serial else "",
            "NTP": " ".join(config.node.ntp),
            "ARCH": config.alpine.arch,
        },
        outputs=("root.squashfs", "root.size", "root.sizes"),
        finish=note_size,
    )


def _json(**values: object) -> Content:
    return Content(json.dumps(values, indent=1).encode() + b"\n")


def slot(config: Config) -> Step:
    """The bytes of a slot partition: the same for both slots."""
    return Step(
        name="slot",
        script=PROJECT / "builder" / "disk" / "slot.sh",
        inputs={
            "vmlinuz": Result("chroot", "vmlinuz"),
            "initramfs": Result("initramfs", "initramfs"),
            "root.size": Result("rootfs", "root.size"),
            "modloop.size": Result("modloop", "modloop.size"),
            "root.sizes": Result("rootfs", "root.sizes"),
            "modloop.sizes": Result("modloop", "modloop.sizes"),
            **({DEVICETREES: Result("chroot", DEVICETREES)} if board_of(config) else {}),
        },
        env={"SLOT_MIB": str(config.disk.slot_mib or "auto")},
        outputs=(SLOT.file,),
        finish=join_parts,
        host_inputs={
            "root.squashfs": Result("rootfs", "root.squashfs"),
            "modloop.squashfs": Result("modloop", "modloop.squashfs"),
        },
    )


def frame(config: Config, packages: PackageSet) -> Step:
    """The disk image without its slots: what is before them, and what is behind."""
    disk = layout(config)
    arch = ARCHES[config.alpine.arch]
    board = board_of(config)
    wanted = (*LOADER, *(board.packages if board else ()))
    loader: dict[str, Input] = {
        f"{package.name}.apk": Known(place_of(package.sha256), package.sha256)
        for package in packages.lock.packages.get(LOADER_WORLD, ())
        if package.name in wanted
    }
    if board:
        loader |= {f"board/{path.name}": path for path in board.files}
        loader |= {"esp": Content(board.esp.encode()), DEVICETREES: Result("chroot", DEVICETREES)}
    sectors = {}
    for partition in disk.partitions:
        name = partition.name.upper().replace("-", "_")
        sectors[f"{name}_FIRST"] = str(partition.first)
        sectors[f"{name}_SECTORS"] = str(partition.sectors)
    return Step(
        name="frame",
        script=PROJECT / "builder" / "disk" / "frame.sh",
        inputs={
            "partitions": Content(sfdisk_script(disk).encode()),
            "grub.cfg": Content(grub_config(config, disk).encode()),
            "grubenv": Content(render(BootState())),
            **loader,
        },
        env={
            "SIZE_MIB": str(disk.size_mib),
            "FILES_MIB": str(FILES_MIB),
            "NODE_LABEL": config.node.label,
            "ESP_NUMBER": str(PARTITIONS.index(PARTITION_ESP) + 1),
            "DATA_LABEL": PARTITION_DATA,
            "GRUB_TARGET": arch.grub,
            "EFI_FILE": arch.efi_file,
            "BIOS": "1" if arch.has_bios else "",
            "DATA_UUID": disk[PARTITION_DATA].guid,
            **sectors,
        },
        outputs=(HEAD, TAIL, END),
    )


def image() -> Step:
    """The disk image: the frame with the slot in both places."""
    return Step(
        name="image",
        outputs=("disk.img",),
        finish=join_disk,
        host_inputs={
            HEAD: Result("frame", HEAD),
            TAIL: Result("frame", TAIL),
            END: Result("frame", END),
            SLOT.file: SLOT,
        },
    )
