"""Runs as Ray tasks, on this machine or a cluster."""
