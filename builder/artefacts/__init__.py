"""Reads artefacts again, to compare them."""
