"""MMEngine's readers of files, replaced by ours: no code from a file is ever run.

MMEngine reads a checkpoint that torch refuses once more without care, annotations as pickles, and
YAML with all its objects.
All libraries of OpenMMLab read through it. `install` replaces its functions when MMEngine has been
imported, or as soon as it is; until then it costs nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

TYPE_CHECKING = False  # as in typing, whose import would take longer than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from typing import Any, NoReturn


def _read_checkpoint(file: Any, map_location: Any = None, *_: Any, **__: Any) -> dict[str, Any]:
    """What `torch.load` is to MMEngine: the content of a checkpoint, on the CPU or `map_location`.

    Raises:
        CheckpointError: in one line, if the file is damaged or malicious.
    """
    import io
    import tempfile
    from pathlib import Path

    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    from mmonepeace.checkpoint import read_content
    from mmonepeace.checkpoint.unpickling import History

    if isinstance(file, io.IOBase):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "checkpoint.pth")
            path.write_bytes(file.read())
            return _read_checkpoint(path, map_location)
    device = map_location if isinstance(map_location, str | torch.device) else "cpu"

    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, copy=True)  # a file that is mapped may be overwritten
        if isinstance(value, History):
            return HistoryBuffer(*map(np.asarray, value.data))
        if isinstance(value, dict):
            for key in value:
                value[key] = convert(value[key])
        elif isinstance(value, list):
            value[:] = map(convert, value)
        elif type(value) is tuple:
            return tuple(map(convert, value))
        return value

    content = convert(read_content(Path(file)))
    if isinstance(content, dict) and isinstance(content.get("meta"), dict):
        content["meta"].pop("config", None)  # of MMCV 1, which MMEngine would run
    return content


def _refuse_pickle(*_: Any, **__: Any) -> NoReturn:
    from mmonepeace.exit_status import UserError

    raise UserError(
        "refused: annotations in a pickle (.pkl), which can run any code. Convert the file to .json "
        "where you trust it: mmengine.dump(mmengine.load(FILE), 'FILE.json') without mmonepeace. "
        "Nothing was executed."
    )


def _refuse_stored_config(init_model: Callable[..., Any]) -> Callable[..., Any]:
    def checked(self: Any, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        if not cfg:
            from mmonepeace.exit_status import UserError

            raise UserError(
                "refused: the config stored in a checkpoint is Python code. Name a config: "
                "model=CONFIG. Nothing was executed."
            )
        return init_model(self, cfg, *args, **kwargs)

    return checked


def _load_url(
    url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True,
    check_hash: bool = False, file_name: str | None = None, **_: Any,
) -> Any:  # fmt: skip
    """What `load_url` of torch is to MMEngine: downloads a file unless it is there, and reads it."""
    from pathlib import Path
    from urllib.parse import urlparse

    from torch import hub

    path = Path(model_dir or Path(hub.get_dir(), "checkpoints"))
    path = path / (file_name or Path(urlparse(url).path).name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = hub.HASH_REGEX.search(path.name) if check_hash else None
        hub.download_url_to_file(url, str(path), found[1] if found else None, progress)
    return _read_checkpoint(path, map_location)


def _protect_checkpoints(module: Any) -> None:
    module._safe_torch_load = _read_checkpoint
    module.load_url = _load_url


def _protect_downloads(module: Any) -> None:
    module.load_url = _load_url


def _protect_annotations(module: Any) -> None:
    module.PickleHandler.load_from_fileobj = _refuse_pickle
    module.PickleHandler.load_from_path = _refuse_pickle


def _protect_yaml(module: Any) -> None:
    import yaml

    # That of MMEngine builds whatever objects a file names.
    module.Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _protect_images(module: Any) -> None:
    module.pickle = SimpleNamespace(loads=_refuse_pickle)


def _protect_inferencers(module: Any) -> None:
    inferencer = module.BaseInferencer
    inferencer._init_model = _refuse_stored_config(inferencer._init_model)


# Module -> what to do once it has been imported.
_PROTECT: dict[str, Callable[[Any], None]] = {
    "mmengine.runner.checkpoint": _protect_checkpoints,
    "mmengine.utils.dl_utils.hub": _protect_downloads,
    "mmengine.utils.dl_utils": _protect_downloads,
    "mmengine.fileio.handlers.pickle_handler": _protect_annotations,
    "mmengine.fileio.handlers.yaml_handler": _protect_yaml,
    "mmengine.infer.infer": _protect_inferencers,
    "mmseg.utils.io": _protect_images,
}


class _Watcher:
    """Finds these modules as Python does, and protects them after their import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if (protect := _PROTECT.get(name)) is None:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_protect(module: ModuleType) -> None:
            execute(module)
            protect(module)

        spec.loader.exec_module = execute_and_protect  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Replace the readers of MMEngine, now or when it is imported; once."""
    if any(type(finder).__name__ == "_Watcher" for finder in sys.meta_path):
        return
    for name, protect in _PROTECT.items():
        if name in sys.modules:
            protect(sys.modules[name])
    sys.meta_path.insert(0, _Watcher())
