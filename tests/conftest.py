"""What several tests need."""

from pathlib import Path

import pytest

from tasks.core.config import load_config
from tasks.core.paths import BUILD


@pytest.fixture(scope="session")
def disk_image() -> Path:
    """The disk image of the project as it is."""
    from tasks.build import build

    build("image", load_config())
    return (BUILD / "disk.img").resolve()
