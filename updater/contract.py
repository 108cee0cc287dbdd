"""What the builder, the boot loader, the initramfs, the services and the updater must agree on.

Each name and number that more than one of them uses has its home here. The shell sources it as
`/usr/lib/belay/contract.sh`, which the step `rootfs` makes of it; GRUB has it in the place of the
@WORDS@ of `grub.cfg.in` (both: `builder/core/contract.py`). `initramfs/init` and some small files
repeat a name, as they run where neither is: tests/unit/test_contract.py holds them to this file.

Paths have no / at their beginning: tests and repairs have another root.
"""

# --- the boot state ---

SLOTS = ("a", "b")
GOOD, TRIAL, BAD = "good", "trial", "bad"
ONCE, RESCUE = "once", "rescue"  # beside good and trial, how a slot can be booted
# How often a slot in this state is booted without being confirmed. The boot loader of a disk is
# that of its first installation, and takes a number above its own for damage.
TRIES = {GOOD: 8, TRIAL: 3, BAD: 0}
RESCUES = 3  # rescue boots, until somebody answers

# --- the disk ---

PARTITION_ESP = "esp"
PARTITION_SLOT_A, PARTITION_SLOT_B = "slot-a", "slot-b"
PARTITION_NODE = "node"
PARTITION_DATA = "data"
# By their numbers; the first has the number 1.
PARTITIONS = (
    "bios",
    PARTITION_ESP,
    PARTITION_SLOT_A,
    PARTITION_SLOT_B,
    PARTITION_NODE,
    PARTITION_DATA,
)

# --- what a server has ---

# Releases and channels of this architecture lie at the top; each other one has a folder.
FIRST_ARCH = "x86_64"


def arch_folder(arch: str) -> str:
    """The folder of a server that nodes of an architecture look at; "" is the server itself."""
    return "" if arch == FIRST_ARCH else arch


# --- the kernel's command line ---

ARGUMENT_SLOT = "belay.slot"  # a or b
ARGUMENT_PARTUUID = "belay.partuuid"  # the GUID of its partition
ARGUMENT_MODE = "belay.mode"  # good, trial, once, rescue; net
ARGUMENT_STAMP = "belay.stamp"  # the time of this boot, which the boot state has, too
ARGUMENT_NETBOOT = "belay.netboot"  # the URL of a slot image, where there is no disk
ARGUMENT_SIZE = "belay.size"  # of that image, in bytes
ARGUMENT_SHA256 = "belay.sha256"  # of that image
ARGUMENT_FRAME = "belay.frame"  # the SHA-256 of what `belay install` needs beside it

# --- exit codes ---

EXIT_NOT_YET = 75  # of a check: not yet; of `belay`: it may work later (EX_TEMPFAIL of sysexits.h)
EXIT_SKIPPED = 77  # of a check: this can't be checked here (as automake has it)

# --- marks in the kernel's log ---

MARK_STARTED = "belay: started "  # and the name of a service
MARK_SWITCHED = "belay: starting the system"  # the initramfs is done

# --- below etc/belay: what the image has ---

ETC = "etc/belay"
ETC_RELEASE = f"{ETC}/release.json"
ETC_BUILT = f"{ETC}/built"  # when the release was made, in seconds since 1970; else 0
ETC_SETTINGS = f"{ETC}/settings.json"
ETC_RESOLVED = f"{ETC}/settings"  # the same for the shell: lines NAME=VALUE
ETC_KEYS = f"{ETC}/keys"  # whose releases this node takes
ETC_REVOKED = f"{ETC}/revoked"  # those that it takes no more
ETC_CHECKS = f"{ETC}/health.d"
ETC_NODE_LABEL = f"{ETC}/node-label"  # of volumes with a node's own files
ETC_STICK_LABEL = f"{ETC}/stick-label"  # of sticks with releases
ETC_DISK_GUID = f"{ETC}/disk-guid"  # that of the disk image
ETC_BOOTED = f"{ETC}/booted"  # the name of the partition of the running slot, by the initramfs
ETC_BOOT_WARNINGS = f"{ETC}/boot-warnings"  # what the initramfs found wrong

# --- below run/belay: what this boot knows ---

RUN = "run/belay"
RUN_NODE = f"{RUN}/node"  # the node's own files
RUN_SETTINGS = f"{RUN}/settings"  # what counts on this node, for the shell: lines NAME=VALUE
RUN_WARNINGS = f"{RUN}/warnings"  # lines for `belay status`
RUN_CONFIRMED = f"{RUN}/confirmed"  # is there from when the boot was confirmed
RUN_CLOCK = f"{RUN}/clock"  # is there where the hardware clock was wrong
RUN_WATCHDOG = f"{RUN}/watchdog"  # its name, and after how many seconds it resets
RUN_NOTICE = f"{RUN}/notice"  # is shown at login
RUN_DATA_LOST = f"{RUN}/data-lost"  # why the files on data were given up
RUN_INTERFACES = f"{RUN}/interfaces"  # of the cards that belay-network found
RUN_LOG_TO = f"{RUN}/log-to"  # the other host that gets the log
RUN_KEPT = f"{RUN}/kept"  # what data couldn't take
RUN_SITE = f"{RUN}/site"  # the configuration that is applied
RUN_SITE_OUTCOME = f"{RUN}/site.json"
RUN_SITE_WHY = f"{RUN}/site-why"  # is there where that failed: why
RUN_STICK = f"{RUN}/stick"  # where a stick with releases is mounted
RUN_VOLUME = f"{RUN}/volume"  # where that with the node's own files is mounted
RUN_LOCK = f"{RUN}/lock"  # one at a time writes slots
RUN_MEMORY_LOCK = f"{RUN}/memory-lock"
RUN_WAITING = f"{RUN}/waiting"  # is locked by who waits for the lock
RUN_GAVE_WAY = f"{RUN}/gave-way"  # since when somebody is given way to
RUN_PULLING = f"{RUN}/pulling"  # is locked while a server is asked

# --- files of a node's own ---

NODE_MACTAB = f"{RUN_NODE}/mactab"
NODE_SSH_HOST_KEY = f"{RUN_NODE}/dropbear_ed25519_host_key"
NODE_SSH_HOLDERS = f"{RUN_NODE}/authorized_keys"

# --- on data ---

DATA_FOLDER = "data/belay"
DATA_SIGNED = f"{DATA_FOLDER}/signed"  # the newest time that was signed, and its SHA-256
DATA_SITE = f"{DATA_FOLDER}/site"  # and -SLOT-STATE: configurations of the site
