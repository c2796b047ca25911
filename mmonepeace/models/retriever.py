"""Embeddings of all modalities in one space.

Shapes: B batch, L tokens (CLS first), D width.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace import checkpoint
from mmonepeace.models.base import BackboneModel
from mmonepeace.models.gather import Gather
from mmonepeace.models.losses import GradCache, check_smoothing, contrastive
from mmonepeace.registry import MODELS
from mmonepeace.spec import patch_grid

LOGIT_SCALE_INIT = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)


@MODELS.register_module()
class OnePeaceRetriever(BackboneModel):
    """A backbone with a projection per modality, trained for cosine similarity.

    Args:
        backbone: config of `OnePeace`, with `final_norm=True` for released weights.
        label_smoothing: of the contrastive loss.
        gather: over processes, "official" without or "full" with gradient, see `gather.gather`.
        equal_texts_match: samples of a batch with equal texts are positives of each other. Small
            data sets need it; the official loss does not have it.
        equal_images_match: the same of equal paths of images, for several captions of an image.
        data_preprocessor: config; by default `MultimodalDataPreprocessor`.
        init_cfg: `dict(type="Pretrained", checkpoint=PATH)` with a file of any official or own
            layout.

    Raises:
        ValueError: for an unknown `gather`, a smoothing outside 0 to below 1, or if both equal
            texts and equal images match.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        label_smoothing: float = 0.0,
        gather: Gather = "official",
        equal_texts_match: bool = False,
        equal_images_match: bool = False,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, data_preprocessor, init_cfg)
        if gather not in get_args(Gather):
            raise ValueError(f"gather is {gather!r}; choose one of {', '.join(get_args(Gather))}.")
        check_smoothing("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing
        self.gather = gather
        if equal_texts_match and equal_images_match:
            raise ValueError("equal_texts_match and equal_images_match: choose one.")
        # What samples that are positives of each other have in common.
        self.match_key = "text" if equal_texts_match else "img_path" if equal_images_match else None
        dim = self.backbone.arch.embed_dim
        self.projections = nn.ModuleDict(
            {name: nn.Linear(dim, dim) for name in self.backbone.adapters}
        )
        self.reset_parameters(self.projections)
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_INIT))

    def load_checkpoint(
        self,
        path: str,
        allow_missing: Sequence[str] = (),
        converted: checkpoint.Conversion | None = None,
    ) -> checkpoint.LoadReport:
        """Load a checkpoint; a released file may lack the logit scale. See `OnePeace`."""
        report = super().load_checkpoint(path, ("logit_scale", *allow_missing), converted)
        if self.logit_scale.is_meta:
            self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_INIT, device="cpu"))
        return report

    def task(self) -> dict[str, Any]:
        """See `BackboneModel`."""
        return {"type": "OnePeaceRetriever"}

    def scale(self) -> Tensor:
        """exp(logit_scale), which never exceeds 100 nor falls below 1.

        The parameter itself is kept in range, or it would drift where there is no gradient.
        So it cannot be sharded, which scalars do not allow anyway.
        """
        with torch.no_grad():
            self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        return self.logit_scale.exp()

    def project(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features (..., D) after the final norm, such as CLS -> (..., D) float32 of unit length."""
        return {
            name: F.normalize(self.projections[name](x).float(), dim=-1)
            for name, x in features.items()
        }

    def embed_patches(self, images_B3HW: Tensor, values: bool = False) -> tuple[Tensor, Tensor]:
        """Embeddings of images and of each of their patches, float32 of unit length.

        Args:
            images_B3HW: images of one size, as the backbone takes them.
            values: patches take the value path of the last block, see `layers.value_path`.

        Returns:
            (B, D), as `forward` gives it, and (B, ceil(H / 16), ceil(W / 16), D).
        """
        tokens = self.backbone.embed({"image": images_B3HW})
        if values:
            attended, own = self.backbone.encode_both_paths(tokens)
        else:
            attended = own = self.backbone.encode(tokens)
        cls_BD = self.project({"image": attended["image"][:, 0]})["image"]
        patches_BTD = self.project({"image": own["image"][:, 1:]})["image"]
        return cls_BD, patches_BTD.unflatten(1, patch_grid(*images_B3HW.shape[-2:]))

    def forward(
        self,
        inputs: Mapping[str, Any],
        data_samples: Sequence[Any] | None = None,
        mode: Literal["tensor", "predict", "loss", "contrast"] = "tensor",
        contrast: GradCache | None = None,
    ) -> Any:
        """Embed each modality on its own.

        Args:
            inputs: modality -> input, see `OnePeace.embed`.
            data_samples: one `BaseDataElement` for each sample, or None.
            mode: "tensor" returns the embeddings; "predict" puts those of each sample into its
                data sample as `embeddings`, a dict; "loss" contrasts every two modalities;
                "contrast" returns the inputs of the loss: the embeddings and the logit scale.
            contrast: for "loss": what `cache_contrast` gave for these samples.

        Returns:
            modality -> (B, D) float32 of unit length, the data samples, or losses and accuracies
            by name: where `contrast` is given, "surrogate" instead, see there.
        """
        embeddings: dict[str, Tensor] = {}
        for name, value in inputs.items():
            features = self.backbone.encode(self.backbone.embed({name: value}), skip_padding=True)
            embeddings |= self.project({name: features[name][:, 0]})
        if mode == "tensor":
            return embeddings
        if mode == "contrast":
            return embeddings, self.scale()
        if mode == "loss":
            return self._contrast(embeddings, data_samples, contrast)
        names = list(embeddings)
        rows = [
            dict(zip(names, row, strict=True)) for row in zip(*embeddings.values(), strict=True)
        ]
        return self.set_prediction(data_samples, "embeddings", rows, mode)

    def _contrast(
        self,
        embeddings: Mapping[str, Tensor],
        data_samples: Sequence[Any] | None,
        cached: GradCache | None,
    ) -> dict[str, Tensor]:
        if cached is None:
            return self.contrastive_losses(embeddings, self.scale(), data_samples)
        return {"surrogate": cached.surrogate(embeddings, self.scale())}

    def contrastive_losses(
        self,
        embeddings: Mapping[str, Tensor],
        scale: Tensor,
        data_samples: Sequence[Any] | None = None,
    ) -> dict[str, Tensor]:
        """Contrastive losses of every two modalities; no parameter is used.

        Args:
            embeddings: modality -> (B, D) of unit length.
            scale: exp(logit_scale), the inverse temperature.
            data_samples: with the `text` of each sample where equal texts match, the `img_path`
                where equal images do.

        Returns:
            losses, whose sum is the mean over the pairs of modalities; accuracies; the scale.
        """
        pairs = list(combinations(embeddings, 2))
        if not pairs:
            raise ValueError(f"inputs are {tuple(embeddings)}; the loss compares two or more.")
        groups = None
        if self.match_key:
            shared = [getattr(sample, self.match_key) for sample in data_samples or ()]
            groups = torch.tensor([_number(str(x)) for x in shared], device=scale.device)
        results = {"logit_scale": scale.detach()}
        for a, b in pairs:
            loss, a_to_b, b_to_a = contrastive(
                embeddings[a], embeddings[b], scale, self.label_smoothing, groups, self.gather
            )
            results[f"loss_{a}_{b}"] = loss / len(pairs)
            results |= {f"acc_{a}_to_{b}": a_to_b, f"acc_{b}_to_{a}": b_to_a}
        return results

    def cache_contrast(
        self,
        embeddings: Mapping[str, Tensor],
        scale: Tensor,
        data_samples: Sequence[Any] | None = None,
    ) -> tuple[dict[str, Tensor], GradCache]:
        """The loss of embeddings without gradient, and its gradient with respect to them.

        Arguments are those of `contrastive_losses` for the entire batch. Returns what it gives,
        without gradient, and the gradient, for `forward(mode="loss")`.
        """
        leaves = {name: x.detach().requires_grad_() for name, x in embeddings.items()}
        leaf_scale = scale.detach().requires_grad_()
        results = self.contrastive_losses(leaves, leaf_scale, data_samples)
        loss, _ = self.parse_losses(results)
        *rows, of_scale = torch.autograd.grad(loss, [*leaves.values(), leaf_scale])
        gradient = GradCache(dict(zip(leaves, rows, strict=True)), of_scale)
        return {name: value.detach() for name, value in results.items()}, gradient


def _number(text: str) -> int:
    """The same integer for the same text in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
