"""Installation: the lock files, and the virtual environment that is made from them. Only `requirements*.lock` and the
standard library are needed to install."""
