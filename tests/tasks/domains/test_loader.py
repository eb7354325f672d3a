"""The domain loader: a domain is found by its folder, and serving imports nothing of its audit.

Also covers `tasks/domains/nursery/domain.py` and `tasks/tools/domain_interface.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.core.paths import PARAMS, SHOP_SEED
from tasks.core.settings import load_settings
from tasks.domains import loader
from tasks.domains.loader import load_domain
from tasks.domains.nursery.domain import DOMAIN
from tests.conftest import ROOT


def test_the_shipped_settings_name_the_nursery() -> None:
    assert load_domain(load_settings(ROOT / PARAMS).tools.domain) is DOMAIN


@pytest.mark.parametrize("name", ["bakery", "", "..", "nursery.tools", "loader"])
def test_a_name_without_a_folder_is_refused_with_the_domains_that_exist(name: str) -> None:
    with pytest.raises(GraftError, match=r"tools\.domain: no domain .* in tasks/domains; there are: nursery$"):
        load_domain(name)


def test_a_folder_without_a_domain_module_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bakery").mkdir()
    monkeypatch.setattr(loader, "_FOLDER", tmp_path)
    with pytest.raises(GraftError, match="no domain 'bakery'"):
        load_domain("bakery")


def test_an_open_tool_service_imports_no_audit(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.core.settings import load_settings;"
        "from tasks.domains.loader import load_domain; settings = load_settings();"
        "load_domain(settings.tools.domain).open_tool_service(settings.shop, *map(Path, sys.argv[1:]));"
        "print([name for name in sys.modules if name.startswith('tasks.') and 'audit' in name])"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "shop.sqlite"), str(ROOT / SHOP_SEED)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
