"""Classification of any combination of modalities: VQA, NLVR2, grounding, audio classes.

Shapes: B batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from mmonepeace.layers.heads import ClassificationHead
from mmonepeace.models.base import BackboneModel
from mmonepeace.registry import MODELS


@MODELS.register_module()
class OnePeaceClassifier(BackboneModel):
    """A backbone and a head over the tokens of one modality, as the official fine-tuned models.

    Args:
        backbone: config of `OnePeace`, with `rpb="per_block", final_norm=True` for released
            weights.
        head: options of `layers.heads.ClassificationHead`: num_classes and others.
        pool_over: modality whose tokens are pooled; None takes the first of text, image, audio
            that is in the input. The released grounding models but RefCOCOg pool "image".
        data_preprocessor: config; by default `MultimodalDataPreprocessor`.
        init_cfg: `dict(type="Pretrained", checkpoint=PATH)`; a pretrained file leaves the head as
            initialised.
    """

    allow_missing: ClassVar = ("head.",)

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any],
        pool_over: str | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, data_preprocessor, init_cfg)
        self.head = ClassificationHead(self.backbone.arch, **head)
        self.reset_parameters(self.head)
        self.pool_over = pool_over

    def forward(
        self,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        data_samples: Sequence[Any] | None = None,
        mode: Literal["tensor", "predict"] = "tensor",
    ) -> Tensor | Sequence[Any]:
        """Classify joint encodings.

        Args:
            inputs: modality -> input, see `OnePeace.embed`; or a list of them, one for each view
                of the head. The second of two images is `{"image": (images, True)}`.
            data_samples: one `BaseDataElement` for each sample, or None.
            mode: "tensor" returns logits; "predict" puts those of each sample into its data
                sample as `pred_score`.

        Returns:
            (B, classes) logits, or the data samples.
        """
        views = [inputs] if isinstance(inputs, Mapping) else inputs
        if len(views) != self.head.num_views:
            raise ValueError(f"{len(views)} views given, the head takes {self.head.num_views}.")
        pooled = []
        for view in views:
            tokens = self.backbone.embed(view)
            name = self.pool_over or next(iter(tokens.lengths))
            pad = None if tokens.pad_BL is None else tokens.split(tokens.pad_BL)[name]
            pooled.append((self.backbone.encode(tokens, skip_padding=True)[name], pad))
        logits = self.head(pooled)
        if mode == "tensor":
            return logits
        return self.set_prediction(data_samples, "pred_score", logits, mode)
