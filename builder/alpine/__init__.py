"""Mirrors, packages, the lock, the archive, and the container's root."""
