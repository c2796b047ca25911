"""Which models a page shows: of the checkpoints that are named, or of the demos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmonepeace import apis, checkpoint, checks
from mmonepeace.exit_status import UserError
from mmonepeace.page.abilities import Ability, Ask, HeatMap, Search, Segment, branches_of

DEMOS = {  # what targets of the Makefile leave behind
    "work_dirs/demo": "demo",
    "work_dirs/pretrain_demo/al": "pretrain-demo",
    "work_dirs/ground_demo/phrases": "ground-demo",
    "work_dirs/vqa_demo": "vqa-demo",
    "work_dirs/audio_demo/answers": "audio-demo",
}
DEMO_INDEX = "work_dirs/pretrain_demo/index.safetensors"


def open_models(
    checkpoints: Sequence[str] = (),
    index: str | Path | None = None,
    config: str | None = None,
    tokenizer: Path | None = None,
    device: str | None = None,
) -> list[Ability]:
    """All that models can do, in the order in which they are named, search first.

    Args:
        checkpoints: files, or folders with one; none, and no index, for those of the demos.
        index: made by `mmonepeace embed`. Its model is the recorded one, or the one of `checkpoints`
            with the same weights.
        config: recipe of segmentors that have none beside them.
        tokenizer: of models that have no tokenizer.json beside them.
        device: by default a GPU if there is one.

    Raises:
        UserError, CheckpointError, CheckError, ValueError: in one line, if there is nothing to show,
            or something cannot be used.
    """
    if not checkpoints and index is None:
        checkpoints = [folder for folder in DEMOS if _has_checkpoint(folder)]
        index = DEMO_INDEX if Path(DEMO_INDEX).is_file() else None
        if not checkpoints and index is None:
            raise UserError(
                "no model to show: the demos have not been run here. Run `make demo` (12 minutes), or "
                "name a model with --checkpoint or --index."
            )
    paths = [checkpoint.find(path) for path in checkpoints]
    abilities: list[Ability] = []
    embedders: dict[Path, apis.Embedder] = {}
    if index is not None:
        found, embedder, path = _open_index(Path(index), paths, tokenizer, device)
        abilities.append(Search(Path(index).stem, found, embedder))
        embedders[path.resolve()] = embedder
        if path.resolve() not in [p.resolve() for p in paths]:
            abilities += _of_embedder(embedder, path)
    for path in paths:
        abilities += _open(path, config, tokenizer, device, embedders)
    return abilities


def missing_demos() -> list[str]:
    """A line for each demo whose model is not in this folder."""
    return [
        f"not shown: {folder} is not there; `make {target}` trains it"
        for folder, target in DEMOS.items()
        if not _has_checkpoint(folder)
    ]


def _has_checkpoint(folder: str) -> bool:
    try:
        return bool(checkpoint.find(folder))
    except checkpoint.CheckpointError:
        return False


def _open_index(
    path: Path, checkpoints: Sequence[Path], tokenizer: Path | None, device: str | None
) -> tuple[apis.EmbeddingIndex, apis.Embedder, Path]:
    """An index, its model, and the checkpoint of that."""
    index = apis.EmbeddingIndex.load(path)
    if not index.items:
        raise ValueError(f"{path} has no items. Make one with mmonepeace embed.")
    recorded = Path(index.meta.get("checkpoint", ""))
    if recorded.exists():
        return index, apis.embedder_of(index, None, tokenizer, device), recorded
    for given in checkpoints:  # the model has been moved
        if _kind(given) == "embed":
            return index, apis.embedder_of(index, given, tokenizer, device), given
    return index, apis.embedder_of(index, None, tokenizer, device), recorded  # says what is missing


def _kind(path: Path) -> str:
    """What a checkpoint is: "embed", "predict", "segment" or "detect", by the names of its weights."""
    names = checkpoint.names_of(path)
    parts = {name.partition(".")[0] for name in names}
    if "decode_head" in parts:
        return "segment"
    if parts & {"roi_head", "rpn_head", "bbox_head", "panoptic_head"}:
        return "detect"
    own = (checkpoint.own_name(name) or name for name in names)
    return "predict" if any(name.startswith("head.") for name in own) else "embed"


def _open(
    path: Path,
    config: str | None,
    tokenizer: Path | None,
    device: str | None,
    embedders: dict[Path, apis.Embedder],
) -> list[Ability]:
    """What the model of a checkpoint can do; one that is open already is not read again."""
    if path.resolve() in embedders:
        return _of_embedder(embedders[path.resolve()], path)
    kind = _kind(path)
    if kind == "segment":
        return [_open_segmentor(path, config, device)]
    if kind == "detect":
        raise ValueError(f"{path}: is of a detector. Draw it with mmonepeace show-predictions.")
    own = None if (path.parent / "tokenizer.json").is_file() else tokenizer
    if kind == "predict":
        predictor = apis.Predictor.from_checkpoint(path, device, tokenizer=own, progress=False)
        if "text" in predictor.inputs and predictor.reader.tokenizer is None:
            raise ValueError(f"{path}: has no tokenizer.json beside it. Name it: --tokenizer.")
        return [Ask(_label(path), predictor)]
    embedder = apis.Embedder.from_checkpoint(path, device, tokenizer=own, progress=False)
    found = _of_embedder(embedder, path)
    if not found:
        raise ValueError(
            f"{path}: gives embeddings of {', '.join(branches_of(embedder)) or 'nothing'} alone; a "
            "heat map needs images and texts (and a tokenizer.json), a search an index: --index."
        )
    return found


def _of_embedder(embedder: apis.Embedder, path: Path) -> list[Ability]:
    return (
        [HeatMap(_label(path), embedder)] if {"image", "text"} <= {*branches_of(embedder)} else []
    )


def _open_segmentor(path: Path, config: str | None, device: str | None) -> Segment:
    import torch
    from mmengine.registry import init_default_scope

    from mmonepeace.apis.dense_prediction import load_dense_model

    beside = sorted(path.parent.glob("*.py"))
    if len(beside) != 1 and config is None:
        raise ValueError(
            f"{path}: is of a segmentor, whose recipe is not beside it ({len(beside)} .py files, "
            "expected 1). Name it: --config."
        )
    cfg = checks.read_config(str(beside[0]) if len(beside) == 1 else str(config))
    init_default_scope(cfg.default_scope)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with checks.explain(cfg):
        model = load_dense_model(cfg, path, device)
    return Segment(_label(path), model, _metainfo(cfg))


def _metainfo(cfg: Any) -> dict[str, Any]:
    """Classes and palette of the test data of a recipe, which need not be there."""
    from mmengine.registry import DATASETS

    dataset = cfg.test_dataloader.dataset
    known = dict(getattr(DATASETS.get(dataset.type), "METAINFO", {}))
    metainfo = known | dict(dataset.get("metainfo") or {})
    if "classes" not in metainfo:
        count = cfg.model.decode_head.num_classes
        metainfo["classes"] = [f"class {i}" for i in range(count)]
    return metainfo


def _label(path: Path) -> str:
    """What a page calls a model: the folder of its checkpoint, and its name if it is not a run's."""
    run = checkpoint.is_checkpoint_name(path.name)
    return path.resolve().parent.name if run else path.stem
