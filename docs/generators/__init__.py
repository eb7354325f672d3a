"""Generators of the reference pages: one module per page, run by `make reference`.

The pages are committed, so that they can be read without building the site. `tests/docs/test_reference.py`
fails when a page differs from what its generator makes of the present code.
"""
