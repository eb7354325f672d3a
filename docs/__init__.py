"""The documentation, and in `docs/generators` the code that writes its reference pages."""
