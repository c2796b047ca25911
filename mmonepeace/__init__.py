"""ONE-PEACE as an OpenMMLab plugin: one Transformer for images, audio and text."""

import sys

__version__ = "0.1.0"

if sys.version_info < (3, 10):  # noqa: UP036  (pip checks this too, a bare checkout does not)
    raise ImportError(
        f"mmonepeace needs Python 3.10 or newer, this is {sys.version.split()[0]}. "
        "Create the environment with `make -s python`."
    )

from mmonepeace import safe_reading

safe_reading.install()
