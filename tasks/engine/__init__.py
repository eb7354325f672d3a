"""Engines: one protocol, and the function that opens a model package on the engine it names."""
