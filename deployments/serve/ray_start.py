"""Start of Ray without its client server: `python -m deployments.serve.ray_start start --head …` is Ray's own command.

The client server runs code for everyone who reaches its port. Nothing of Graft uses it, and Ray has no option that
leaves it out: without a port it takes 10001. It stays out where its dependencies are missing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def main() -> None:
    # The name in Ray's own module; tests/integration/test_serving.py checks that no client server runs.
    scripts: Any = import_module("ray.scripts.scripts")
    scripts.get_ray_client_dependency_error = lambda: "Graft starts no Ray client server"
    scripts.main()


if __name__ == "__main__":
    main()
