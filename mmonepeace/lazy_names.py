"""Names of a package that are imported when they are first used: importing the package costs nothing."""

import ast
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmonepeace.garbage import no_garbage


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Its names are its modules, and what its `__init__.py` imports under `if TYPE_CHECKING`, as type
    checkers and editors read it.
    """

    @cache
    def homes() -> dict[str, str]:
        """Name -> module."""
        spec: Any = find_spec(package)
        imports = ast.walk(ast.parse(spec.loader.get_source(package)))
        return {
            name.name: node.module
            for node in imports
            if isinstance(node, ast.ImportFrom) and node.module and node.col_offset
            for name in node.names
        }

    def get(name: str) -> Any:
        if not name.startswith("__"):
            if home := homes().get(name):
                with no_garbage():
                    return getattr(import_module(home), name)
            if find_spec(module := f"{package}.{name}"):
                with no_garbage():
                    return import_module(module)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted(homes())
