"""The compiled renderer: the same parameters as the reference, grey levels in and out, on the cores of the CPU."""
