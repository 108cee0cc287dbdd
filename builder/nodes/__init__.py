"""Nodes: who each is, and the volume that tells it."""
