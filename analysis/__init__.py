"""Laws over many runs."""
