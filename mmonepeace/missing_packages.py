"""The error of a tool that is started with a Python that lacks the packages it needs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def explain_missing_packages() -> Iterator[None]:
    """Import what a tool needs inside this: a missing package ends it with one line and status 2.

    Imports take seconds, in which Ctrl-C ends the tool without a traceback. Only packages of others
    are explained: a missing module of the project is a bug and raises.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "mmonepeace"):
            raise
        print(
            f"error: {sys.executable} has no package {package!r}. Use the project's environment: "
            f"PY=$(make -s python), then $PY {sys.argv[0]} ...; or install into this Python: "
            "pip install -e .",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nSIGINT: stopped before anything was done.", file=sys.stderr)
        sys.exit(130)
