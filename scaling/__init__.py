"""One run: everything that turns a spec into a loss."""
