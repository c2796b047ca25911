"""The backbone as a folder or a repository, by its name."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from typing_extensions import Self

from mmonepeace import checkpoint
from mmonepeace.checkpoint.pretrained import BACKBONE
from mmonepeace.spec import CLIP_MEAN, CLIP_STD, MAX_TEXT_TOKENS, PATCH_SIZE, SAMPLE_RATE

Model = TypeVar("Model", bound="SavedBackbone")
_PARTS = ("adapters.", "layers.", "norms.")  # of a backbone, in the weights of a model around it


class SavedBackbone(checkpoint.PushToHub):
    """`from_pretrained` of `OnePeace`, and what its `save_pretrained` writes."""

    adapters: Any

    @classmethod
    def from_pretrained(
        cls, name: str | Path, dtype: torch.dtype | None = None, **options: Any
    ) -> Self:
        """Build the backbone that a name means, with its weights, on the CPU, in eval mode.

        Args:
            name: a folder that `save_pretrained` wrote, also that of an `Embedder` or a `Predictor`;
                "hf-hub:org/name", perhaps with "@revision"; or a published file, such as
                "one-peace.pt", in ./checkpoints.
            dtype: of the weights; None takes that of the file.
            options: of `OnePeace`, such as out_indices; those that the weights decide are given by
                them. With `rpb="per_block"` a shared table is copied to each block.

        Raises:
            CheckpointError: in one line, if there is no such model, or it is not what its config.json
                says; also of a subclass, whose parameters no folder has.
        """
        _refuse_subclass(cls)
        source = checkpoint.locate(name)
        if source.is_file():
            converted, path = checkpoint.read_own(source), source
            saved = None
        else:
            saved = checkpoint.read_pretrained(source, BACKBONE)
            converted, path = saved.converted, saved.path
        with checkpoint.prefix_errors(path):
            config = checkpoint.infer_config(converted.weights, converted.meta)
        if saved and saved.config["class"] == BACKBONE:
            with torch.device("meta"):
                plain: Any = cls(**config)
            plain.adopt_metadata(converted.meta)
            saved.check_weights(plain)
            saved.check_facts({"preprocessing": plain.trained_inputs()})
        weights = {k: v for k, v in converted.weights.items() if k.startswith(_PARTS)}
        # On the meta device the tensors of the file become the weights: nothing is initialised.
        with torch.device("meta"), checkpoint.explain_broken_file("a ONE-PEACE encoder"):
            model: Any = cls(**{**config, **options})
        own = checkpoint.Conversion(weights, converted.meta)
        checkpoint.load_checkpoint(model, path, model.allow_missing, own)
        model._is_init = True  # MMEngine would initialise it again
        return model.to(dtype).eval()  # None keeps that of the file

    def saved_parts(self) -> tuple[str, Any, dict[str, Any], None]:
        """See `PushToHub`."""
        _refuse_subclass(type(self))
        return BACKBONE, self, {"preprocessing": self.trained_inputs()}, None

    def trained_inputs(self) -> dict[str, dict[str, Any]]:
        """What the branches were trained on: modality -> facts."""
        known: dict[str, Any] = {
            "text": lambda _: {"max_tokens": MAX_TEXT_TOKENS, "lower_case": True},
            "image": lambda adapter: {
                "size": PATCH_SIZE * adapter.rpb.sides[0],
                "mean": list(CLIP_MEAN),
                "std": list(CLIP_STD),
                "resampling": "bicubic",
                "keep_ratio": False,
                "alpha": "drop",
            },
            "audio": lambda adapter: {
                "sampling_rate": SAMPLE_RATE,
                "clip_seconds": adapter.clip_seconds,
            },
        }
        return {
            name: known[name](adapter) if name in known else {}
            for name, adapter in self.adapters.items()
        }


def _refuse_subclass(model: type) -> None:
    if model.__name__ != BACKBONE:
        raise checkpoint.CheckpointError(
            f"{model.__name__} has parameters that such a folder does not describe. Give it a file with "
            "init_cfg=dict(type='Pretrained', checkpoint=...), and save OnePeace."
        )
