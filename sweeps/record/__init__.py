"""What is recorded of a sweep in a tracking store, and read from there."""
