"""The message of the day."""

from dataclasses import dataclass
from pathlib import Path

from progfiguration.inventory.roles import ProgfigurationRole

MOTD = Path("/etc/motd")


@dataclass(kw_only=True)
class Role(ProgfigurationRole):
    greeting: str

    def apply(self) -> None:
        text = f"{self.greeting} from progfiguration.\n"
        if not MOTD.exists() or MOTD.read_text() != text:
            MOTD.write_text(text)
