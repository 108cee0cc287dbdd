"""Where things lie: all generated files are below `build/`."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
BUILD = PROJECT / "build"
CONFIG_FILE = PROJECT / "image.toml"
