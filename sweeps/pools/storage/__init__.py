"""Journals, checkpoints and data kept on an object store instead of a shared disk."""
