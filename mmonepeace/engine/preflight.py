"""What is checked before a run starts, so that a mistake costs seconds and its fix is named."""

import inspect
import random
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine import registry as mmengine_registry
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope, init_default_scope
from mmengine.runner import FlexibleRunner, Runner, find_latest_checkpoint

from mmonepeace.engine.labels import scan_labels

# Top-level keys that are read: the Runner's arguments, what it takes from its config, and TTA.
# The preprocessor is the model's own: the Runner would only fill it in where it is missing.
_READ_KEYS = {*inspect.signature(Runner.__init__).parameters} - {"self", "data_preprocessor"} | {
    "activation_checkpointing", "compile", "tta_model", "tta_pipeline",
}  # fmt: skip
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_LABEL_SCAN_SECONDS = 20.0
_FILES_LOOKED_FOR = 1000  # of a data set of pairs
_REGISTRIES = (
    mmengine_registry.RUNNERS,
    mmengine_registry.STRATEGIES,
    mmengine_registry.DATA_SAMPLERS,
    mmengine_registry.MODELS,
    mmengine_registry.DATASETS,
    mmengine_registry.TRANSFORMS,
    mmengine_registry.OPTIMIZERS,
    mmengine_registry.OPTIM_WRAPPERS,
    mmengine_registry.PARAM_SCHEDULERS,
    mmengine_registry.HOOKS,
    mmengine_registry.LOOPS,
    mmengine_registry.METRICS,
    mmengine_registry.VISUALIZERS,
)
# Arguments that no class declares.
_UNDECLARED = {"test_cfg": {"mode", "crop_size", "stride"}, "data_prefix": {"path"}}


class PreflightError(Exception):
    """A run that cannot succeed. The message is for the user and names the fix."""


# ------------------------------------------------------------------------------------- overrides


def apply_overrides(cfg: Config, overrides: dict[str, Any] | None) -> None:
    """Merge `--cfg-options`, refusing keys that nothing would read.

    A key is known if the config has it, or if the class of its dict takes such an argument.

    Raises:
        PreflightError: naming the key and its nearest relatives.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    for key in overrides or {}:
        _check_key(cfg, key)
    if overrides:
        cfg.merge_from_dict(overrides)


def _check_key(cfg: Config, key: str) -> None:
    first, *_ = parts = key.split(".")
    read_keys = _read_keys(cfg)
    if first in cfg and first not in read_keys:
        raise PreflightError(
            f"--cfg-options {key}: {first!r} is a shorthand that is used up while the config is "
            "read, so overriding it changes nothing. Override what it fills in, such as "
            f"{_example_use(cfg, first)}."
        )
    node: Any = cfg._cfg_dict
    for depth, part in enumerate(parts):
        path = ".".join(parts[:depth]) or "the config"
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise PreflightError(
                    f"--cfg-options {key}: {path} is a list of {len(node)}; name an element by "
                    f"its number, 0 to {len(node) - 1}."
                )
            node = node[int(part)]
            continue
        known = set(node) if isinstance(node, dict) else set()
        taken = read_keys if depth == 0 else _arguments(node)
        if depth:
            taken = taken | _UNDECLARED.get(parts[depth - 1], set())
        if part not in known | taken:
            near = get_close_matches(part, sorted(known | taken), 3, 0.5)
            where = ".".join(parts[:depth])
            guess = " or ".join(f"{where}.{n}" if where else n for n in near)
            raise PreflightError(
                f"--cfg-options {key}: {path} has no {part!r}. "
                + (f"Did you mean {guess}?" if near else f"It has {', '.join(sorted(known))}.")
            )
        node = node.get(part) if isinstance(node, dict) else None


def _read_keys(cfg: Config) -> set[str]:
    """Top-level keys that the runner of a config reads."""
    if "runner_type" not in cfg:
        return _READ_KEYS
    # FlexibleRunner.from_cfg passes the others on, but not these.
    unread = {"data_preprocessor", "compile", "cfg"}
    return _arguments({"type": cfg.runner_type}) - unread | {"runner_type"}


def _example_use(cfg: Config, name: str) -> str:
    """A place in the config that holds the value of a shorthand."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            here = f"{path}.{key}" if path else str(key)
            yield here, value
            if isinstance(value, (dict, list)):
                yield from walk(value, here)

    for path, value in walk(cfg._cfg_dict, ""):
        if path != name and path.split(".")[0] in (*_LOADERS, "model") and value == cfg[name]:
            return path
    return "a key of model or train_dataloader"


def _arguments(node: Any) -> set[str]:
    """Constructor arguments of the class that a config dict names."""
    kind = node.get("type") if isinstance(node, dict) else None
    if not isinstance(kind, str):
        return set()
    taken: set[str] = set()
    scope = DefaultScope.get_current_instance()
    for registry in _REGISTRIES:
        with registry.switch_scope_and_registry(scope and scope.scope_name) as local:
            try:
                cls = local.get(kind)
            except (ImportError, RuntimeError):  # not in this registry
                cls = None
        if not callable(cls):
            continue
        for base in inspect.getmro(cls) if inspect.isclass(cls) else (cls,):
            parameters = inspect.signature(base).parameters.values()
            taken |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    return taken


# ------------------------------------------------------------------------------------------ data


def dataset_configs(cfg: Config) -> Iterator[tuple[str, ConfigDict]]:
    """(name of the dataloader, config of a data set), wrappers opened."""

    def leaves(dataset: ConfigDict) -> Iterator[ConfigDict]:
        inner = dataset.get("dataset") or dataset.get("datasets")
        if inner is None:
            yield dataset
        else:
            for one in inner if isinstance(inner, (list, tuple)) else [inner]:
                yield from leaves(one)

    for loader in _LOADERS:
        if cfg.get(loader):
            for dataset in leaves(cfg[loader].dataset):
                yield loader, dataset


def set_data_root(cfg: Config, folder: str) -> None:
    """Point every data set of the config to a folder."""
    for _, dataset in dataset_configs(cfg):
        dataset.data_root = folder


def check_data(cfg: Config, loaders: tuple[str, ...] = _LOADERS) -> None:
    """Check folders, classes and labels of the data sets.

    Raises:
        PreflightError: naming the folder or the numbers, and what to do.
        LabelError: for a label outside the classes.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    seen = []
    for loader, dataset_cfg in dataset_configs(cfg):
        if loader not in loaders or dataset_cfg in seen:
            continue
        seen.append(dataset_cfg)
        root = Path(dataset_cfg.get("data_root") or ".")
        for key, folder in (dataset_cfg.get("data_prefix") or {}).items():
            path = root / (folder or "")
            if not path.is_dir():
                raise PreflightError(
                    f"{loader}: {key} folder {path} does not exist.\n{_data_help(cfg)}"
                )
        dataset = _build_dataset(cfg, loader, dataset_cfg)
        if hasattr(dataset, "columns"):
            _check_pairs(cfg, loader, dataset)
        elif hasattr(dataset, "load_data_list"):
            _check_segmentation(cfg, loader, dataset, dataset_cfg)


def _build_dataset(cfg: Config, loader: str, dataset_cfg: ConfigDict) -> Any:
    """The data set without its transforms, not read yet where it can wait."""
    options = {"pipeline": [], "lazy_init": True}
    known = _arguments(dataset_cfg)
    try:
        return DATASETS.build({**dataset_cfg, **{k: v for k, v in options.items() if k in known}})
    except (FileNotFoundError, ValueError) as error:
        raise PreflightError(f"{loader}: {error}\n{_data_help(cfg)}") from None


def _check_pairs(cfg: Config, loader: str, dataset: Any) -> None:
    """Check the manifests of pairs, and whether their files are there."""
    try:
        infos = dataset.load_data_list()
    except (OSError, ValueError) as error:
        raise PreflightError(f"{loader}: {error}\n{_data_help(cfg)}") from None
    some = random.Random(0).sample(infos, min(len(infos), _FILES_LOOKED_FOR))
    paths = [Path(i[key]) for i in some for key in ("img_path", "audio_path") if key in i]
    missing = [path for path in paths if not path.is_file()]
    allowed = 0.0 if dataset.test_mode else dataset.max_broken * len(paths)
    if len(missing) > allowed:
        raise PreflightError(
            f"{loader}: {len(missing)} of {len(paths)} files that were looked for do not exist; "
            f"the first is {missing[0]}. Check data_root and data_prefix.\n{_data_help(cfg)}"
        )


def _check_segmentation(cfg: Config, loader: str, dataset: Any, dataset_cfg: ConfigDict) -> None:
    """Check pictures, label maps and classes."""
    check_classes(cfg, dataset.metainfo.get("classes"))
    infos = dataset.load_data_list()
    if not infos:
        suffix = dataset_cfg.get("img_suffix", getattr(dataset, "img_suffix", ""))
        root = dataset_cfg.get("data_root") or "."
        raise PreflightError(f"{loader}: no *{suffix} images in {root}.\n{_data_help(cfg)}")
    missing = [i for i in infos if not Path(i.get("seg_map_path", i["img_path"])).is_file()]
    if missing:
        raise PreflightError(
            f"{loader}: {len(missing)} of {len(infos)} images have no label map; the first is "
            f"{missing[0]['img_path']}, whose label map should be {missing[0]['seg_map_path']}. "
            "Check seg_map_path and seg_map_suffix of the dataset."
        )
    head = cfg.model.get("decode_head")
    if head:
        load = next(
            TRANSFORMS.build(step)
            for step in dataset_cfg.pipeline
            if step["type"].split(".")[-1] == "LoadAnnotations"
        )
        head = head[-1] if isinstance(head, (list, tuple)) else head
        ignore = head.get("ignore_index", 255)
        scan_labels(infos, load, head["num_classes"], ignore, _LABEL_SCAN_SECONDS)


def text_steps(cfg: Config) -> list[ConfigDict]:
    """The transforms with a tokenizer, of data sets and of metrics."""
    steps = [step for _, dataset in dataset_configs(cfg) for step in dataset.get("pipeline") or ()]
    for name in ("val_evaluator", "test_evaluator"):
        metrics = cfg.get(name) or []
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            steps.append(metric.get("tokenize") or {})
    return [step for step in steps if "tokenizer" in step]


def check_tokenizers(cfg: Config) -> None:
    """Check that the tokenizers of the pipelines are there and fit the model's vocabulary.

    Raises:
        PreflightError: naming the file and what to do.
    """
    modalities = (cfg.model.get("backbone") or {}).get("modalities") or {}
    text = modalities.get("text") or {} if isinstance(modalities, dict) else {}
    tokenizers = [s for s in text_steps(cfg) if s["type"].split(".")[-1] == "Tokenize"]
    for path in sorted({step["tokenizer"] for step in tokenizers}):
        step = next(step for step in tokenizers if step["tokenizer"] == path)
        try:
            size = TRANSFORMS.build(step).tokenizer.vocab_size
        except (OSError, ValueError) as error:
            need = cfg.get("needs_tokenizer")
            raise PreflightError(
                f"{error}{f' This recipe needs {need}.' if need else ''}"
            ) from None
        if text.get("vocab_size", size) < size:
            raise PreflightError(
                f"{path} has {size} ids, but model.backbone.modalities.text.vocab_size is "
                f"{text['vocab_size']}. Set it to {size}, or use the tokenizer of the model."
            )


def check_classes(cfg: Config, classes: tuple[str, ...] | None) -> None:
    """Hold `num_classes` of the heads against the classes of the data set."""
    for name in ("decode_head", "auxiliary_head"):
        heads = cfg.model.get(name) or []
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            if classes and head.get("num_classes") != len(classes):
                raise PreflightError(
                    f"model.{name}.num_classes is {head.get('num_classes')}, but the data set has "
                    f"{len(classes)} classes ({', '.join(classes[:5])}, ...). Set "
                    f"model.{name}.num_classes={len(classes)}."
                )


def _data_help(cfg: Config) -> str:
    lines = ["Your own copy elsewhere: add --data-root DIR."]
    if cfg.get("needs_data"):
        lines.insert(0, f"This recipe needs {cfg.needs_data}.")
    return "\n".join(lines if "runner_type" in cfg else [*lines, TRY_NOW])


TRY_NOW = "To see a whole run now, on a CPU and without any download of yours: make demo"

# --------------------------------------------------------------------------------------- weights


def check_weights(cfg: Config) -> None:
    """Check that the weights which the run starts from are there.

    Raises:
        PreflightError: naming the file, where to get it and how to go without.
    """
    stage_one = cfg.get("stage_one")
    if stage_one and cfg.model.get("stage") != "al":
        raise PreflightError(
            f"stage_one {stage_one} is what stage al starts from; this recipe is of another. To "
            "start from all weights of a checkpoint: --cfg-options load_from=CKPT"
        )
    if stage_one and not cfg.get("resume") and not Path(stage_one).exists():
        raise PreflightError(
            f"stage_one {stage_one} does not exist. Name the checkpoint of the first stage with "
            "--stage-one CKPT, or train one: tools/pretrain.py with a recipe of stage vl."
        )
    init_cfg = (cfg.model.get("backbone") or {}).get("init_cfg")
    path = (init_cfg or {}).get("checkpoint")
    if path and not Path(path).is_file():
        need = cfg.get("needs_weights", "the pretrained weights of the backbone")
        raise PreflightError(
            f"weights {path} do not exist. This recipe needs {need}.\n"
            "Weights elsewhere: add --checkpoint PATH. From scratch: "
            f"--cfg-options model.backbone.init_cfg=None\n{TRY_NOW}"
        )


def find_checkpoint(path: str) -> str:
    """A checkpoint file: the path itself, or the newest one of a work directory.

    Raises:
        PreflightError: if there is none.
    """
    found = find_latest_checkpoint(path) if Path(path).is_dir() else path
    if not found or not Path(found).is_file():
        raise PreflightError(f"checkpoint {path} does not exist. Train one: tools/train.py CONFIG")
    return found


def check_all(cfg: Config) -> None:
    """Check data and weights, and tell everything that is missing at once."""
    problems = []
    for check in (check_weights, check_tokenizers, check_data):
        try:
            check(cfg)
        except PreflightError as error:
            problems.append(str(error))
    if problems:
        lines = "\n".join(problems).splitlines()
        unique = [line for line in dict.fromkeys(lines) if line != TRY_NOW]
        raise PreflightError("\n".join([*unique, *([TRY_NOW] if TRY_NOW in lines else [])]))


# ------------------------------------------------------------------------------------- run modes


def set_precision(cfg: Config, dtype: Literal["float16", "bfloat16"]) -> None:
    """Train in mixed precision.

    Raises:
        PreflightError: for float16 without a GPU.
    """
    if dtype == "bfloat16":
        cfg.optim_wrapper.type = "mmonepeace.BFloat16OptimWrapper"
        return
    if not torch.cuda.is_available():
        raise PreflightError("--amp (float16) needs a CUDA device, none is here. Use --bf16.")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.loss_scale = "dynamic"


def set_tokenizer(cfg: Config, path: str) -> None:
    """Let every transform that takes a tokenizer have this one."""
    for step in text_steps(cfg):
        step.tokenizer = path


def set_stage(cfg: Config, stage: Literal["vl", "al"]) -> None:
    """Train a stage of pretraining; the data and the backbone must have its modalities.

    Raises:
        PreflightError: if they do not.
    """
    needed = {"vl": {"text", "image"}, "al": {"text", "audio"}}[stage]
    found = [("the backbone", set(cfg.model.backbone.modalities))]
    for loader, dataset in dataset_configs(cfg):
        found.append((loader, set(dataset.get("columns") or dataset.get("modalities") or needed)))
        for step in dataset.get("pipeline") or ():
            if step["type"].split(".")[-1] == "MaskTokens":
                step.stage = stage
    for where, names in found:
        if not needed <= names:
            raise PreflightError(
                f"stage {stage!r} needs {' and '.join(sorted(needed))}, but {where} of this recipe "
                f"has {' and '.join(sorted(names))}. Take a recipe of that stage."
            )
    cfg.model.stage = stage


def set_launcher(cfg: Config, launcher: str) -> None:
    """Run in one process, or in those that a launcher started; on CPUs too.

    Raises:
        PreflightError: for another launcher than torchrun where there is no GPU.
    """
    cfg.launcher = launcher
    if launcher == "none" or torch.cuda.is_available():
        return
    if launcher != "pytorch":
        raise PreflightError(
            f"--launcher {launcher} needs CUDA devices, none is here. On CPUs start with torchrun "
            "and --launcher pytorch."
        )
    # MMEngine itself would look for a GPU.
    torch.distributed.init_process_group("gloo")
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
    )


def set_strategy(cfg: Config, name: Literal["ddp", "fsdp2"] | None, sharded: bool = False) -> None:
    """Choose how pretraining uses the processes that a launcher started.

    Args:
        cfg: config after `set_launcher` and `set_precision`.
        name: "ddp", a copy of the model in each; "fsdp2", some rows of it in each; None leaves it
            to the config, which leaves it to "ddp".
        sharded: write checkpoints as folders, see `FSDP2Strategy`.

    Raises:
        PreflightError: if there is no launcher, or copies are to be written in shards.
    """
    if cfg.launcher == "none" and (name or cfg.get("strategy")):
        raise PreflightError(
            f"strategy {name or cfg.strategy.type} is for several processes. Start them with "
            "tools/dist_pretrain.sh CONFIG GPUS, or tools/slurm_pretrain.sh."
        )
    wrapper = cfg.pop("model_wrapper_cfg", None)
    if name == "fsdp2":
        half = cfg.optim_wrapper.get("type") == "mmonepeace.BFloat16OptimWrapper"
        dtype = "bfloat16" if half else "float32"
        cfg.strategy = dict(type="mmonepeace.FSDP2Strategy", param_dtype=dtype)
    elif cfg.launcher != "none" and (name or not cfg.get("strategy")):
        cfg.strategy = dict(type="DDPStrategy", model_wrapper=wrapper)
    if sharded:
        if (cfg.get("strategy") or {}).get("type") != "mmonepeace.FSDP2Strategy":
            raise PreflightError(
                "--sharded lets each process write its part of the model, and so far each has all "
                "of it. Add --strategy fsdp2."
            )
        cfg.strategy.sharded = True


def set_resume(cfg: Config, source: str) -> None:
    """Go on from a checkpoint of an earlier run; "auto" takes the newest of the work directory.

    Raises:
        PreflightError: if there is no such file.
    """
    if source != "auto" and not Path(source).exists():
        raise PreflightError(f"--resume {source}: no such file. --resume alone takes the newest.")
    cfg.resume = True
    cfg.load_from = None if source == "auto" else source
    newest = find_latest_checkpoint(cfg.work_dir) if source == "auto" else source
    if newest and cfg.model.get("backbone"):
        cfg.model.backbone.init_cfg = None  # the checkpoint brings all weights


def dry_run(runner: Runner | FlexibleRunner) -> None:
    """Build everything that training needs and load one batch, without training."""
    loader = runner.build_dataloader(runner._train_dataloader)
    if isinstance(runner, FlexibleRunner):
        runner.prepare()
    else:
        runner.build_optim_wrapper(runner.optim_wrapper)
    batch = next(iter(loader))
    parameters = sum(p.numel() for p in runner.model.parameters())
    trained = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
    inputs = batch["inputs"]
    by_name = inputs if isinstance(inputs, dict) else {"image": inputs}
    first = ", ".join(f"{name} {tuple(value[0].shape)}" for name, value in by_name.items())
    samples = getattr(loader.dataset, "total", None) or len(loader.dataset)  # a stream has no len
    runner.logger.info(
        f"dry run: {parameters:,} parameters, {trained:,} of them trained; "
        f"{samples:,} training samples, a batch of {len(batch['data_samples'])} whose "
        f"first has {first}. Nothing was trained."
    )
