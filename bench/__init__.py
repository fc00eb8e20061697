"""Benchmarks against the libraries that people use instead; run with ``nox -s bench`` or ``python -m bench``."""
