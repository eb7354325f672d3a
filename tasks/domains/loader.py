"""The domain loader: the one place from which the code of a domain is imported."""

from __future__ import annotations

import importlib
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.tools.domain_interface import Domain

_FOLDER = Path(__file__).parent


def load_domain(name: str) -> Domain:
    """The domain of the folder `tasks/domains/NAME`.

    Raises:
        GraftError: there is no such folder, or it has no `domain.py`.
    """
    names = sorted(path.parent.name for path in _FOLDER.glob("*/domain.py"))
    if name not in names:
        raise GraftError(f"tools.domain: no domain {name!r} in tasks/domains; there are: {', '.join(names)}")
    domain: Domain = importlib.import_module(f"tasks.domains.{name}.domain").DOMAIN
    return domain
