"""The YAML file of a sweep: its keys, and how it is read."""
