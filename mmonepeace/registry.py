"""Child registries of MMEngine with scope `mmonepeace`; modules are imported when one is used."""

from importlib.util import find_spec

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

SCOPE = "mmonepeace"

_MODEL_LOCATIONS = ["mmonepeace.models"]
# The modules that need more than the backbone does: mmseg, or mmdet and the operators it needs.
if find_spec("mmseg"):
    _MODEL_LOCATIONS.append("mmonepeace.models.segmentor")
if find_spec("mmdet") and find_spec("mmcv._ext"):
    _MODEL_LOCATIONS.append("mmonepeace.models.detector")


def _child(parent: Registry, locations: list[str]) -> Registry:
    return Registry(parent.name, parent=parent, scope=SCOPE, locations=locations)


def _modules(package: str, *names: str) -> list[str]:
    return [f"mmonepeace.{package}.{name}" for name in names]


MODELS = _child(mmengine_registry.MODELS, _MODEL_LOCATIONS)
DATASETS = _child(
    mmengine_registry.DATASETS,
    _modules("datasets", "labelled", "pairs", "seeded_dataset", "shards", "tolerant_dataset"),
)
DATA_SAMPLERS = _child(mmengine_registry.DATA_SAMPLERS, _modules("datasets", "resumable_sampler"))
TRANSFORMS = _child(
    mmengine_registry.TRANSFORMS,
    _modules(
        "datasets",
        "audio_augmentation",
        "image_augmentation",
        "mm_transforms",
        "teacher_features",
        "transforms",
        "video_transforms",
    ),
)
METRICS = _child(
    mmengine_registry.METRICS,
    _modules(
        "evaluation", "average_precision", "classification", "grounding", "retrieval", "vqa",
        "zero_shot",
    ),
)  # fmt: skip
WEIGHT_INITIALIZERS = _child(mmengine_registry.WEIGHT_INITIALIZERS, ["mmonepeace.models"])
HOOKS = _child(
    mmengine_registry.HOOKS,
    [
        *_modules("checks", "label_hook"),
        *_modules("datasets", "broken_samples"),
        *_modules("engine", "checkpoint_hook", "divergence", "hooks", "interruption", "terminal"),
        *_modules("evaluation", "left_out", "zero_shot"),
        *_modules("visualization", "retrieval_grid"),
    ],
)
LOOPS = _child(mmengine_registry.LOOPS, _modules("engine", "train_loop"))
RUNNERS = _child(mmengine_registry.RUNNERS, _modules("engine", "runner"))
STRATEGIES = _child(mmengine_registry.STRATEGIES, _modules("engine", "strategy"))
OPTIM_WRAPPERS = _child(mmengine_registry.OPTIM_WRAPPERS, _modules("engine", "optim"))
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS, _modules("engine", "optim")
)
