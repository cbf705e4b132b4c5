"""What `benchmarks/gpu.sh` runs: each file a part, `PARTS` in `__main__.py` their order and limits."""
