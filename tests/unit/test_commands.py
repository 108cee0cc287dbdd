"""Commands on this machine, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from builder.core.commands import run

SCRIPT = "cd $0; touch on; until [ -e interrupted ]; do sleep 0.05; done; sleep 0.5; touch done"


@pytest.mark.parametrize("whole", [False, True])
def test_ctrl_c_ends_a_command_or_waits_for_it(tmp_path: Path, whole: bool) -> None:
    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not (tmp_path / "on").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        (tmp_path / "interrupted").touch()

    thread = threading.Thread(target=interrupt)
    thread.start()
    words = ["sh", "-c", SCRIPT, str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        run(words, log=tmp_path / "log", what="installing", whole=whole)
    thread.join()
    assert (tmp_path / "done").exists() == whole
