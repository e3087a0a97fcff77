"""Figures of tuning: which settings are best, at which size and length."""
