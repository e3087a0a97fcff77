"""The process that drives a sweep: which run starts next, retries, caps, stopping."""
