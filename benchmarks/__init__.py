"""Benchmarks: the reference implementation beside the project; not part of the package."""
