"""A sweep played through on a fake pool and clock, before anything is paid for."""
