"""Samples of a finished sweep: its best runs over a ladder of steps and samplers."""
