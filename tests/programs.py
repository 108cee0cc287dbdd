"""Programs that tests run and that a machine needn't have."""

from __future__ import annotations

import os

import pytest

from builder.core.errors import UserError
from builder.core.host import require_program


def program(name: str) -> str:
    """The path of a program. Without it the test is skipped, and says why; but not in CI."""
    try:
        return require_program(name)
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
