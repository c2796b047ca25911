"""Recipes, and the libraries and compiled operators of mmcv that some of them need."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmonepeace.checks.errors import CheckError, is_detection

# mmseg's heads that are built on mmdet's, or on an operator.
_HEADS = {"Mask2FormerHead", "MaskFormerHead", "PointHead", "PSAHead", "CCHead"}
_PACKAGES = {"mmseg": "onedl-mmsegmentation", "mmpretrain": "onedl-mmpretrain"}


def read_config(path: str) -> Config:
    """Read a recipe that can be run in this environment.

    Raises:
        CheckError: if there is no such file, or see `check_operators` and `check_library`.
    """
    if not Path(path).is_file():
        raise CheckError(f"config {path} does not exist.")
    cfg = Config.fromfile(path)
    check_operators(cfg)
    check_library(cfg)
    return cfg


def check_library(cfg: Config) -> None:
    """Check that the library is there that a recipe belongs to.

    Raises:
        CheckError: naming the command that installs it.
    """
    scope = cfg.get("default_scope")
    if is_detection(cfg):
        check_operators(cfg)  # without them mmdetection cannot be imported
    elif scope in _PACKAGES and find_spec(scope) is None:
        raise CheckError(
            f"this recipe is one of {scope}, which is not installed. In a clone, for its own "
            f"environment: make env-full. In yours: pip install {_PACKAGES[scope]}"
        )


def check_operators(cfg: Config) -> None:
    """Check that mmdetection and mmcv's compiled operators are there, if the model needs them.

    Without them mmdet's models cannot be imported, and the registry says of each that it does not
    exist.

    Raises:
        CheckError: naming what needs them and the commands that build them.
    """
    names = list(_types(cfg.get("model")))
    needing = names[:1] if is_detection(cfg) else []
    needing += [n for n in names if n.startswith("mmdet.") or n.split(".")[-1] in _HEADS]
    if not needing:
        return
    missing, commands = [], []
    if find_spec("mmdet") is None:
        missing.append("mmdetection")
        commands.append("pip install onedl-mmdetection")
    try:
        import mmcv.ops
    except ImportError as error:  # not compiled, or for another version of torch
        import mmcv

        missing.append(f"mmcv's compiled operators ({error})")
        commands.append(
            "MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-cache-dir "
            f"--no-build-isolation --no-binary onedl-mmcv onedl-mmcv=={mmcv.__version__}"
        )
    if missing:
        raise CheckError(
            f"{needing[0]} needs {' and '.join(missing)}. In a clone, for its own environment: "
            f"make env-full. In yours: {' && '.join(commands)}"
        )


def _types(node: Any) -> Iterator[str]:
    """Every `type` in a config, the outermost first."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield node["type"]
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from _types(value)
