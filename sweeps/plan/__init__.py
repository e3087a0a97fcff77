"""From a config to planned runs: sizes, tokens, FLOPs, memory and expected time."""
