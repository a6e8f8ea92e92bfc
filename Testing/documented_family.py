"""The family of docs/adding-a-network-family.md, as it stands on that page.

>>> backbone = documented_backbone(NetworkSpec(kind="plain", classes=4, arguments={"width": 4}))
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from TransferSegLib.networks.interface import Backbone, NetworkSpec

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding-a-network-family.md"


def examples() -> list[str]:
    """Return the page's blocks of code: the network, the backbone, and how to train one."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def documented_backbone(spec: NetworkSpec) -> Backbone:
    """Return the page's backbone of a network."""
    backbone: Backbone = _module("backbone").PlainBackbone(spec)
    return backbone


@cache
def _module(name: str) -> ModuleType:
    """Return a module of the page, imported as if it lay in the folder that the page names."""
    if name == "backbone":
        _module("network")
    module = ModuleType(f"TransferSegLib.networks.plain.{name}")
    sys.modules.setdefault("TransferSegLib.networks.plain", ModuleType("TransferSegLib.networks.plain"))
    sys.modules[module.__name__] = module
    code = examples()[("network", "backbone").index(name)]
    exec(compile(code, f"{PAGE.name}, {name}.py", "exec"), module.__dict__)
    return module
