"""Recipes, and the libraries and compiled operators of mmcv that some of them need."""

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from mmonepeace.checks.config import is_detection, type_name, walk
from mmonepeace.checks.report import CheckError
from mmonepeace.checks.structure import check_structure

# mmseg's heads that are built on mmdet's, or on an operator.
_HEADS = {"Mask2FormerHead", "MaskFormerHead", "PointHead", "PSAHead", "CCHead"}
# In a wheel; or in a clone.
_RECIPES = Path(__file__).parents[1] / ".mim/configs"
if not _RECIPES.is_dir():
    _RECIPES = Path(__file__).parents[2] / "configs"
_PACKAGES = {"mmseg": "onedl-mmsegmentation", "mmpretrain": "onedl-mmpretrain"}


def read_config(path: str, builds_model: bool = True) -> Config:
    """Read a recipe that can be run in this environment, its model built or not.

    A file, or the name of one of this package, such as "onepeace_upernet_ade20k".

    Raises:
        CheckError: if the file does not exist, cannot be read or has no config's shape, or a library is
            missing.
    """
    path = str(_find_config(path))
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # noqa: BLE001  (a config is code and fails in many ways)
        raise CheckError(f"config {path} cannot be read: {error!r}") from None
    check_structure(cfg)
    if builds_model:
        check_operators(cfg)
    check_library(cfg)
    return cfg


def _find_config(path: str) -> Path:
    """The file, or that of a recipe of this package: configs/.../NAME.py, NAME.py or NAME."""
    if (given := Path(path)).is_file():
        return given
    own = {file.stem: file for file in _RECIPES.rglob("*.py") if "_base_" not in file.parts}
    if given.name == path and given.stem in own:
        return own[given.stem]
    if given.parts[0] == "configs" and (file := _RECIPES.parent / given).is_file():
        return file
    near = get_close_matches(given.stem, own, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise CheckError(f"config {path} does not exist.{hint}")


def check_library(cfg: Config) -> None:
    """Check that the library that a recipe belongs to is installed.

    Raises:
        CheckError: naming the command that installs it.
    """
    scope = cfg.get("default_scope")
    if is_detection(cfg):
        check_operators(cfg)  # without them mmdetection cannot be imported
    elif scope in _PACKAGES and find_spec(scope) is None:
        raise CheckError(
            f"this is a recipe of {scope}, which is not installed. In a clone, for its own "
            f"environment: make env-full. In yours: pip install {_PACKAGES[scope]}"
        )


def check_operators(cfg: Config) -> None:
    """Check that mmdetection and mmcv's compiled operators are installed, if the model needs them.

    Without them mmdet's models cannot be imported, and the registry reports each as unknown.

    Raises:
        CheckError: naming what needs them and the commands that build them.
    """
    parts = list(walk(cfg.get("model")))
    needing = parts[:1] if is_detection(cfg) else []
    needing += [p for p in parts if f"{p['type']}".startswith("mmdet.") or type_name(p) in _HEADS]
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
            f"{needing[0]['type']} needs {' and '.join(missing)}. In a clone, for its own environment: "
            f"make env-full. In yours: {' && '.join(commands)}"
        )
