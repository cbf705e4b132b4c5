"""Whether this machine computes what it should, and how fast it could: `manyview selftest`."""
