"""Families against each other: compute multipliers and crossings at equal loss."""
