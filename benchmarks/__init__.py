"""Speed, measured: each module is a script, run by `make bench` or with `python -m benchmarks.NAME`."""
