"""Worked examples of docs/extending.md; the tests run each of them."""
