"""Tuning: `scaling tune` tries settings by Optuna, and writes the rules that the trials teach."""
