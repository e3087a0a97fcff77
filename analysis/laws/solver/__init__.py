"""Numerics of the laws: objectives, optimisers, starting points, resamples."""
