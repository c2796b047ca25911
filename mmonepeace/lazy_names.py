"""Names of a package that are imported when they are first used: importing the package costs nothing."""

import ast
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Its names are its modules, and what its `__init__.py` imports under `if TYPE_CHECKING`, as type
    checkers and editors read it.
    """
    homes: dict[str, str] = {}  # name -> module

    def read_homes() -> dict[str, str]:
        if not homes:
            source: Any = find_spec(package)
            tree = ast.parse(source.loader.get_source(package))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module and node.col_offset:
                    homes.update(dict.fromkeys((name.name for name in node.names), node.module))
        return homes

    def get(name: str) -> Any:
        if not name.startswith("__"):
            if home := read_homes().get(name):
                return getattr(import_module(home), name)
            if find_spec(module := f"{package}.{name}"):
                return import_module(module)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted(read_homes())
