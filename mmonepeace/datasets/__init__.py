"""Reading and preparing data; registered in TRANSFORMS, DATASETS, DATA_SAMPLERS and HOOKS."""

from typing import TYPE_CHECKING

from mmonepeace.lazy_names import lazy_names

if TYPE_CHECKING:
    from mmonepeace.datasets.audio_augmentation import ShiftPitch
    from mmonepeace.datasets.broken_samples import BrokenSamplesHook
    from mmonepeace.datasets.image_augmentation import (
        AugmentImagePair,
        BlurImage,
        RandAugment,
        RandomErasing,
    )
    from mmonepeace.datasets.labelled import BoxDataset, ChoiceDataset, LabelledDataset
    from mmonepeace.datasets.mm_transforms import Cached, LoadImageFromFile
    from mmonepeace.datasets.pairs import PairDataset
    from mmonepeace.datasets.resumable_sampler import EndlessSampler, ResumableBatchSampler
    from mmonepeace.datasets.seeded_dataset import SeededDataset
    from mmonepeace.datasets.shards import ShardDataset
    from mmonepeace.datasets.teacher_features import LoadTeacherFeatures, RepeatViews
    from mmonepeace.datasets.tokenizer import Tokenizer
    from mmonepeace.datasets.tolerant_dataset import TolerantDataset, tolerate_broken
    from mmonepeace.datasets.transforms import (
        DropWords,
        LoadAudio,
        LoadImage,
        MaskTokens,
        PackModalities,
        PerturbAudio,
        Tokenize,
    )
    from mmonepeace.datasets.video_transforms import LoadVideo

__all__ = [
    "AugmentImagePair", "BlurImage", "BoxDataset", "BrokenSamplesHook", "Cached", "ChoiceDataset",
    "DropWords", "EndlessSampler", "LabelledDataset", "LoadAudio", "LoadImage",
    "LoadImageFromFile", "LoadTeacherFeatures", "LoadVideo", "MaskTokens", "PackModalities", "PairDataset",
    "PerturbAudio", "RandAugment", "RandomErasing", "RepeatViews", "ResumableBatchSampler", "SeededDataset", "ShardDataset", "ShiftPitch", "Tokenize", "Tokenizer",
    "TolerantDataset", "tolerate_broken",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__)
