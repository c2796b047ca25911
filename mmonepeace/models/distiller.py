"""Distillation: a small encoder learns the features that a large one has of the same inputs.

Shapes: B samples, L tokens (CLS first), D width of the student, E of the teacher.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.resampling import Grid
from mmonepeace.models.base import BackboneModel
from mmonepeace.models.losses import feature_distance
from mmonepeace.models.teachers import Teacher, TeacherFeatures
from mmonepeace.registry import MODELS
from mmonepeace.spec import LAYER_NORM_EPS

TARGET = "{}_target"  # input that has the features of the teacher for a modality


@MODELS.register_module()
class OnePeaceDistiller(BackboneModel):
    """A backbone, the student, that learns the CLS and patch features of a frozen teacher.

    Tokens of both are scaled to mean 0 and variance 1 (LayerNorm without weights); a linear map takes
    those of the student to the teacher's width, one for CLS and one for all others. The loss of each is
    1 - cosine, plus smooth L1. Where grids of patches differ, the teacher's is resampled bilinearly to
    the student's, before it is scaled. The teacher sees what the student sees, also the crops.

    Checkpoints have the student and its maps, not the teacher; all that loads a backbone takes them.

    Args:
        backbone: config of `OnePeace`, the student; its modalities are distilled, each for itself.
        teacher: config of a teacher, such as `OnePeaceTeacher` or `TimmTeacher`.
        cls_weight: of the loss of CLS.
        dense_weight: of the loss of all other tokens.
        smooth_l1_weight: of smooth L1 in both.
        cached: samples have the features of the teacher, see `LoadTeacherFeatures`: it is not read.
        data_preprocessor: see `BackboneModel`.
        init_cfg: see `BackboneModel`; of the student.

    Raises:
        ValueError: if the teacher lacks a modality of the student, a weight is negative, or both are 0.
    """

    allow_missing = (r"maps\.", r"norms\.")

    def __init__(
        self,
        backbone: dict[str, Any],
        teacher: dict[str, Any],
        cls_weight: float = 1.0,
        dense_weight: float = 1.0,
        smooth_l1_weight: float = 1.0,
        cached: bool = False,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, data_preprocessor, init_cfg)
        weights = (cls_weight, dense_weight, smooth_l1_weight)
        if min(weights) < 0 or not cls_weight + dense_weight > 0:
            raise ValueError(
                f"cls_weight, dense_weight and smooth_l1_weight are {weights}; expected at least 0, "
                "and the first or the second above."
            )
        self.weights = {"cls": cls_weight, "dense": dense_weight}
        self.smooth_l1_weight, self.cached = smooth_l1_weight, cached
        built: Teacher = MODELS.build(teacher)
        # In a tuple, so that it is no module of this one.
        self._teacher = (built,)
        lacking = [name for name in self.backbone.adapters if name not in built.modalities]
        if lacking:
            raise ValueError(
                f"the student has the modalities {', '.join(self.backbone.adapters)}, the teacher "
                f"{', '.join(built.modalities)}. Leave {', '.join(lacking)} out of "
                "model.backbone.modalities, or use a teacher that has them."
            )
        dim = self.backbone.arch.embed_dim
        self.maps = nn.ModuleDict(
            {
                name: nn.ModuleDict({x: nn.Linear(dim, built.embed_dim) for x in self.weights})
                for name in self.backbone.adapters
            }
        )
        self.reset_parameters(self.maps)

    @property
    def teacher(self) -> Teacher:
        """The frozen model."""
        return self._teacher[0]

    def modules_outside(self) -> list[nn.Module]:
        """Modules that a step uses and that are not this model's, for estimates of memory."""
        return [] if self.cached else [self.teacher.net]

    def init_weights(self) -> None:
        """Load the checkpoint of `init_cfg`, if there is one, and the teacher."""
        super().init_weights()
        if not self.cached:
            self.teacher.prepare()

    def metadata(self) -> dict[str, str]:
        """See `BackboneModel`: that of the student, which has no task."""
        return self.backbone.metadata()

    def forward(
        self,
        inputs: Mapping[str, Any],
        data_samples: Sequence[Any] | None = None,
        mode: Literal["tensor", "loss"] = "tensor",
    ) -> dict[str, Tensor]:
        """Features of the student, or how far they are from those of the teacher.

        Args:
            inputs: modality -> input, see `OnePeace.embed`; perhaps `image_target`, and likewise of
                others: (B, L, E) from `targets`, that were cached.
            data_samples: unused.
            mode: "tensor" or "loss".

        Returns:
            modality -> (B, L, D); or losses, and the mean cosine of each.

        Raises:
            ValueError: for another mode, or targets of another length.
        """
        if mode not in ("tensor", "loss"):
            raise ValueError(f"mode is {mode!r}; expected 'tensor' or 'loss'.")
        results: dict[str, Tensor] = {}
        for name in (name for name in self.backbone.adapters if name in inputs):
            tokens = self.backbone.embed({name: inputs[name]})
            x_BLD = self.backbone.encode(tokens, skip_padding=True)[name]
            if mode == "tensor":
                results[name] = x_BLD
                continue
            target_BLE = inputs.get(TARGET.format(name))
            if target_BLE is None:
                given = self.teacher(name, inputs[name])
                target_BLE = on_grid(given, x_BLD.shape[1], tokens.grid)
            if target_BLE.shape[1] != x_BLD.shape[1]:
                raise ValueError(
                    f"the features of the teacher are of {target_BLE.shape[1]} tokens, those of the "
                    f"student of {x_BLD.shape[1]}. Cache them again, for images of this size."
                )
            results |= self._losses(name, x_BLD, target_BLE, tokens.pad_BL)
        return results

    @torch.no_grad()
    def targets(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the student learns of inputs: modality -> (B, L, E), scaled, on the student's grid."""
        found = {}
        for name in (name for name in self.backbone.adapters if name in inputs):
            tokens = self.backbone.embed({name: inputs[name]})
            given = self.teacher(name, inputs[name])
            found[name] = scaled(on_grid(given, tokens.x_BLD.shape[1], tokens.grid))
        return found

    def _losses(
        self, name: str, x_BLD: Tensor, target_BLE: Tensor, pad_BL: Tensor | None
    ) -> dict[str, Tensor]:
        x_BLD, target_BLE = scaled(x_BLD), scaled(target_BLE)
        results = {}
        for part, rows in (("cls", slice(0, 1)), ("dense", slice(1, None))):
            if not self.weights[part]:
                continue
            given = self.maps[name][part](x_BLD[:, rows])  # type: ignore[index]
            pad = None if pad_BL is None else pad_BL[:, rows]
            cosine, smooth_l1 = feature_distance(given, target_BLE[:, rows], pad)
            distance = 1 - cosine + self.smooth_l1_weight * smooth_l1
            results[f"loss_{name}_{part}"] = self.weights[part] * distance
            results[f"cosine_{name}_{part}"] = cosine.detach()
        return results


def scaled(x_BLD: Tensor) -> Tensor:
    """Each token with mean 0 and variance 1, float32; what is so already stays."""
    return F.layer_norm(x_BLD.float(), x_BLD.shape[-1:], eps=LAYER_NORM_EPS)


def on_grid(given: TeacherFeatures, length: int, grid: Grid | None) -> Tensor:
    """Features of a teacher, (B, L, E), at the tokens of a student.

    Raises:
        ValueError: if numbers of tokens differ that are no patches.
    """
    x_BLE = given.x_BLD
    if given.grid is None or grid is None:
        if x_BLE.shape[1] != length:
            raise ValueError(
                f"the teacher has {x_BLE.shape[1]} tokens of a sample, the student {length}: only "
                "those of images are resampled. Use the tokenizer of the teacher, or its audio stem."
            )
        return x_BLE
    if tuple(given.grid) == tuple(grid):
        return x_BLE
    map_BEhw = x_BLE[:, 1:].transpose(1, 2).unflatten(2, given.grid)
    map_BEhw = F.interpolate(map_BEhw, tuple(grid), mode="bilinear", antialias=True)
    return torch.cat([x_BLE[:, :1], map_BEhw.flatten(2).transpose(1, 2)], 1)
