"""Imported by the server of `tests.processes` before it forks: what the tools import for seconds."""

import gc
import importlib
from contextlib import suppress

for name in (
    "tests.conftest",
    "mmonepeace.apis",
    "mmonepeace.checks",
    "mmonepeace.engine",
    "mmseg.apis",
    "mmdet.apis",
    "torch.utils.tensorboard",
    "matplotlib.pyplot",
):
    with suppress(ImportError):  # mmdet needs compiled operators
        module = importlib.import_module(name)
        for used in getattr(module, "__all__", ()):  # imported when it is used
            getattr(module, used)
gc.freeze()  # MMEngine collects garbage for each data set: not among all these modules
