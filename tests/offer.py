"""A mirror of a test's own: the sample's packages, and what the test adds to them."""

from __future__ import annotations

import shutil
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from builder.alpine.apk_writer import Draft, SigningKey
from builder.core.files import linked
from builder.sample.mirror import sample_mirror, write_repository

COMMUNITY = "v3.23/community/x86_64"


class Offer:
    """A mirror with the sample's packages, and those that a test adds to its community."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(sample_mirror("3.23"), folder, copy_function=linked)
        self.key = new_key(folder / "keys/offer.rsa.pub")
        self.add()

    def add(self, *drafts: Draft) -> None:
        """Have just these in community."""
        write_repository(self.folder / COMMUNITY, drafts, self.key)


def new_key(public: Path) -> SigningKey:
    """A key that signs packages; its public half is written to `public`."""
    key = SigningKey(public.name, rsa.generate_private_key(65537, 2048))
    public.write_bytes(key.public)
    return key
