"""The YAML file of a sweep: what may stand in it, and how it is read."""
