"""timm's Mixup and CutMix for the classifiers of mmpretrain.

Shapes: B images, N classes.
"""

from typing import Any

import torch
from torch import Tensor


class Mixup:
    """Mix the images of a batch in pairs, the first with the last, and their labels.

    mmpretrain's own mix in the same way, but with random partners (an image may be its own), one ratio
    for the batch and a fixed choice of Mixup or CutMix by probability. Draws come from NumPy's global
    generator, which `StepSeedHook` seeds.

    Args:
        num_classes: N.
        mixup_alpha: of Mixup's Beta distribution; 0 leaves Mixup out.
        cutmix_alpha: the same of CutMix.
        options: other arguments of `timm.data.Mixup`, such as `prob`, `switch_prob` and `mode`. Labels are
            smoothed by the loss of the head, not here.

    Raises:
        ValueError: if both are left out.
    """

    def __init__(
        self, num_classes: int, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, **options: Any
    ) -> None:
        from timm.data.mixup import Mixup as TimmMixup

        if not max(mixup_alpha, cutmix_alpha) > 0 or min(mixup_alpha, cutmix_alpha) < 0:
            raise ValueError(
                f"mixup_alpha is {mixup_alpha} and cutmix_alpha {cutmix_alpha}; expected 0 or more, "
                "and one above 0. Leave `mixup` out of the config to mix nothing."
            )
        self.mix = TimmMixup(
            mixup_alpha, cutmix_alpha, label_smoothing=0.0, num_classes=num_classes, **options
        )

    def __call__(self, images: Tensor, scores_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Mix normalised images (B, 3, H, W), in place, and one-hot labels (B, N).

        Of an odd number of images, the last one stays as it is.

        Raises:
            ValueError: if labels are not one-hot.
        """
        scores = scores_BN.to(images.dtype)
        if not bool((scores.sum(1) == 1).all()) or not bool((scores.amax(1) == 1).all()):
            raise ValueError("mixup needs one class per image; these have several, or weights.")
        even = len(images) // 2 * 2
        if even:
            _, mixed = self.mix(images[:even], scores[:even].argmax(1))
            scores = torch.cat([mixed.to(scores), scores[even:]])
        return images, scores
