"""Classification of any combination of modalities, and choice among candidate answers.

Shapes: B batch, C classes or candidates.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.layers.heads import ClassificationHead
from mmonepeace.layers.tokens import Tokens
from mmonepeace.models.base import BackboneModel
from mmonepeace.models.task_losses import ClassLoss
from mmonepeace.registry import MODELS

Inputs = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@MODELS.register_module()
class OnePeaceClassifier(BackboneModel):
    """A backbone and a head over the tokens of one modality, as the official fine-tuned models.

    Args:
        backbone: config of `OnePeace`, with `rpb="per_block", final_norm=True` for released
            weights.
        head: options of `layers.heads.ClassificationHead`: num_classes and others.
        pool_over: modality whose tokens are pooled; None takes the first of text, image, audio
            that is in the input. The released grounding models but RefCOCOg pool "image".
        num_candidates: texts for each sample (audio question answering: 4). The head gives each
            one score, and the scores of a sample are those of its classes.
        loss: config of a loss of `task_losses`; by default `ClassLoss`.
        data_preprocessor: config; by default `MultimodalDataPreprocessor`.
        init_cfg: `dict(type="Pretrained", checkpoint=PATH)`; a pretrained file, or one of a task
            whose head has other sizes, leaves the head as initialised.

    Raises:
        ValueError: if there are candidates and the head has more than one output.
    """

    allow_missing: ClassVar[tuple[str, ...]] = ("head.",)

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any],
        pool_over: str | None = None,
        num_candidates: int = 1,
        loss: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, data_preprocessor, init_cfg)
        self.head = ClassificationHead(self.backbone.arch, **head)
        self.reset_parameters(self.head)
        if num_candidates < 1 or (num_candidates > 1 and head["num_classes"] != 1):
            raise ValueError(
                f"num_candidates is {num_candidates} and num_classes {head['num_classes']}; expected "
                "1 or more candidates, and num_classes=1 if there are several: a score for each."
            )
        if pool_over is not None and pool_over not in self.backbone.adapters:
            raise ValueError(
                f"pool_over is {pool_over!r}; the backbone has {tuple(self.backbone.adapters)}."
            )
        self.pool_over = pool_over
        self.num_candidates = num_candidates
        self.loss = MODELS.build(loss or dict(type=ClassLoss))
        # Names of the classes, for whoever uses a checkpoint; the runner knows them.
        self.classes: tuple[str, ...] | None = None

    def leave_out(self, converted: checkpoint.Conversion, path: str) -> None:
        """Remove a head of other sizes, all of it: parts of it mean nothing."""
        stored = {k: v.shape for k, v in converted.weights.items() if k.startswith("head.")}
        if not stored or stored == {
            f"head.{k}": v.shape for k, v in self.head.state_dict().items()
        }:
            return
        for key in stored:
            del converted.weights[key]
        print_log(
            f"{path}: its head is that of another task and is left out: a new one is trained.",
            logger="current",
            level=logging.WARNING,
        )

    def forward(
        self,
        inputs: Inputs,
        data_samples: Sequence[Any] | None = None,
        mode: Literal["tensor", "predict", "loss"] = "tensor",
    ) -> Any:
        """Classify joint encodings.

        Args:
            inputs: modality -> input, see `OnePeace.embed`, and "image_2", the second of two
                images; or a list of such dicts, one for each view of the head. With candidates,
                the texts of a sample follow each other.
            data_samples: one `BaseDataElement` for each sample, or None; for "loss" with `gt_label`,
                the index of a class, or `gt_score`, a (C,) target.
            mode: "tensor" returns logits; "predict" puts those of each sample into its data
                sample as `pred_score`; "loss" compares them with the targets.

        Returns:
            (B, C) logits, the data samples, or the loss and the accuracy by name.
        """
        logits = self.logits(inputs)
        if mode == "tensor":
            return logits
        if mode == "loss":
            return self._losses(logits, data_samples)
        return self.set_prediction(data_samples, "pred_score", list(logits.float()), mode)

    # Of a model of videos, the frames of a clip and their interval.
    clip: tuple[int, int | None] | None = None

    @property
    def num_outputs(self) -> int:
        """Classes, or numbers of another kind, that the head gives."""
        outputs: Any = self.head.classifier[-1].out_features
        return int(outputs)

    def task(self) -> dict[str, Any]:
        """See `BackboneModel`."""
        facts = {
            "type": "OnePeaceClassifier",
            "pool_over": self.pool_over,
            "num_candidates": self.num_candidates,
            "loss": type(self.loss).__name__,
            "classes": self.classes,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def logits(self, inputs: Inputs) -> Tensor:
        """(B, C) outputs of the head, see `forward`."""
        views = _split_pair(inputs) if isinstance(inputs, Mapping) else inputs
        if len(views) != self.head.num_views:
            raise ValueError(f"{len(views)} views given, the head takes {self.head.num_views}.")
        pooled = []
        for tokens in map(self._embed, views):
            name = self.pool_over or next(iter(tokens.lengths))
            if name not in tokens.lengths:
                raise ValueError(f"pool_over is {name!r}, the inputs are {tuple(tokens.lengths)}.")
            pad = None if tokens.pad_BL is None else tokens.split(tokens.pad_BL)[name]
            pooled.append((self.backbone.encode(tokens, skip_padding=True)[name], pad))
        return self.head(pooled).unflatten(0, (-1, self.num_candidates)).flatten(1)

    def _embed(self, view: Mapping[str, Any]) -> Tokens:
        if self.num_candidates == 1:
            return self.backbone.embed(view)
        # The other modalities are the same for all candidates, up to the first block.
        features = self.backbone.features(view)
        return Tokens.join(
            [
                self.backbone.to_tokens({name: features[name]}).repeat(
                    1 if name == "text" else self.num_candidates
                )
                for name in self.backbone.adapters
                if name in features
            ]
        )

    def _losses(self, logits_BC: Tensor, data_samples: Sequence[Any] | None) -> dict[str, Tensor]:
        soft = any("gt_score" in sample for sample in data_samples or ())
        target = targets(data_samples, "gt_score" if soft else "gt_label")
        accuracy = self.loss.accuracy(logits_BC.detach(), target)
        return {"loss": self.loss(logits_BC, target), "acc": accuracy}


def targets(data_samples: Sequence[Any] | None, name: str) -> Tensor:
    """The targets of a batch, stacked.

    Raises:
        ValueError: if a sample has none.
    """
    if not data_samples or any(name not in sample for sample in data_samples):
        raise ValueError(
            f"the data samples have no {name}: train with a data set that reads labels, such as "
            "LabelledDataset, and PackModalities."
        )
    return torch.stack([sample.get(name) for sample in data_samples])


def _split_pair(inputs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """One view, or two if there is a second image: the rest of the inputs is common to them."""
    first = {name: value for name, value in inputs.items() if name != "image_2"}
    if "image_2" not in inputs:
        return [first]
    return [first, first | {"image": (inputs["image_2"], True)}]
