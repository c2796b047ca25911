"""What numbers and words may be, by the name of their argument, which means the same in all libraries.

Constructors of this package check their own arguments; this serves those of other libraries, which
check few, and says what is wrong before anything is built.
"""

import math
from typing import NamedTuple


class Limits(NamedTuple):
    """Numbers that an argument may have: from `low` to `high`; `but` are further ones."""

    expected: str
    low: float
    high: float = math.inf
    low_too: bool = True
    high_too: bool = True
    whole: bool = False
    but: tuple[float, ...] = ()

    def allows(self, value: float) -> bool:
        """Whether a number is within the limits."""
        if value in self.but:
            return True
        if not math.isfinite(value):
            return False
        if self.whole and value != int(value):
            return False
        above = value >= self.low if self.low_too else value > self.low
        return above and (value <= self.high if self.high_too else value < self.high)


COUNT = Limits("an integer of 1 or more", 1, whole=True)
INDEX = Limits("an integer of 0 or more", 0, 2**32, high_too=False, whole=True)
OFTEN = Limits("an integer of 1 or more, or -1 for none", 1, whole=True, but=(-1,))
MOST = Limits("an integer of 1 or more, or -1 for all", 1, whole=True, but=(-1,))
POSITIVE = Limits("a number above 0", 0, low_too=False)
NORM = Limits("a number above 0", 0, low_too=False, but=(math.inf,))
FACTOR = Limits("a number of 0 or more", 0)
FRACTION = Limits("a number from 0 to 1", 0, 1)
DROPOUT = Limits("a number from 0 to 1, or -1 for none", 0, 1, but=(-1,))
RATE = Limits("a number from 0 to below 1", 0, 1, high_too=False)
PART = Limits("a number above 0 and at most 1", 0, 1, low_too=False)

_LIMITS: dict[Limits, str] = {
    COUNT: """embed_dim embed_dims depth num_heads ffn_dim feedforward_channels img_size in_channels
        channels feat_channels out_channels conv_out_channels fc_out_channels num_classes num_queries
        num_layers num_levels num_points batch_size max_iters max_epochs val_interval
        accumulative_counts base_batch_size num_stages spatial_dim deform_points deform_heads
        vocab_size num_positions num_buckets feature_dim pos_depth pos_groups max_length crop_batch
        window_size prefetch_factor featmap_strides val_begin num output_size roi_feat_size
        finest_scale pad_size_divisor size_divisor max_logits T_max end topk""",
    INDEX: """num_workers begin opencv_num_threads num_convs stacked_convs min_bbox_size seed
        milestones sampling_ratio""",
    OFTEN: "interval",
    MOST: "max_keep_ckpts max_per_img nms_pre",
    POSITIVE: """lr std image_std target_stds init_std layer_scale_init denoising_scale temperature
        clip_seconds max_seconds crop_ratio ratio_range scales ratios power crop_size stride
        strides deform_ratio ffn_ratio repeat""",
    NORM: "max_norm",
    FACTOR: """weight_decay loss_weight class_weight denoising_weight eta_min min_seconds eps gamma
        stage_loss_weights lr_mult decay_mult max_logits_gb""",
    FRACTION: """prob label_smooth_val dropout ffn_drop
        pooler_dropout attn_drop cat_max_ratio iou_threshold pos_iou_thr neg_iou_thr momentum
        min_pos_iou pos_fraction score_thr start_factor end_factor""",
    DROPOUT: "dropout_ratio",
    RATE: "drop_path_rate betas max_broken label_smoothing denoising_smoothing",
    PART: "decay_rate crop_scale crop_ratio_range",
}  # fmt: skip
LIMITS = {name: limits for limits, names in _LIMITS.items() for name in names.split()}
# Of schedules in epochs that are converted to steps, where half an epoch is a number of steps.
EPOCHS = {"begin": FACTOR, "end": POSITIVE}
# How many values some of them have, if they are lists.
LENGTHS = {
    "betas": (2,), "crop_scale": (2,), "crop_ratio": (2,), "ratio_range": (2,), "crop_size": (2,),
    "std": (1, 3, 6), "image_std": (3,), "target_stds": (4,), "crop_ratio_range": (2,),
}  # fmt: skip
# Pairs of which the first is at most the second.
ORDERED = (
    ("neg_iou_thr", "pos_iou_thr"), ("begin", "end"), ("min_seconds", "max_seconds"),
    )  # fmt: skip
CHOICES: dict[str, tuple[str, ...]] = {
    "log_level": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    "mp_start_method": ("fork", "spawn", "forkserver"),
    "imdecode_backend": ("cv2", "turbojpeg", "pillow", "tifffile"),
}
# True or False, of dicts whose class does not say so.
FLAGS = ("enable", "cudnn_benchmark", "filter_empty_gt", "persistent_workers", "pin_memory")
