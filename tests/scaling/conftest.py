"""A corpus and a spec small enough to train in a blink, for every test of the core.

This folder is importable in tests: `from enumeration import ...`, `from toys import ...`.
"""
