"""Many runs: what to run, where, in which order, and what became of it."""
