"""The ledger of a sweep: its runs, attempts, drivers and requests, in one SQLite file."""
