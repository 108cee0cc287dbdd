"""The slot and the disk image."""
