"""The benchmarks that boot a system of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke.context import Context

from builder.benchmarks.ram import ram_usage
from builder.core.progress import Progress

pytestmark = pytest.mark.vm


def test_everything_in_the_initramfs_takes_more_memory(artefacts: Path) -> None:
    as_built, in_initramfs = ram_usage(Context(), Progress())
    assert as_built.mib < in_initramfs.mib
