"""Timings: the plain way beside the project's, and the question index. Nothing here is part of the product."""
