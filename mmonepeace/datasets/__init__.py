"""Reading and preparing data; registered in TRANSFORMS, DATASETS and DATA_SAMPLERS."""

from mmonepeace.datasets.pairs import PairDataset
from mmonepeace.datasets.sampler import EndlessSampler
from mmonepeace.datasets.shards import ShardDataset
from mmonepeace.datasets.tokenizer import Tokenizer
from mmonepeace.datasets.transforms import (
    LoadAudio,
    LoadImage,
    MaskTokens,
    PackModalities,
    Tokenize,
)

__all__ = [
    "EndlessSampler",
    "LoadAudio",
    "LoadImage",
    "MaskTokens",
    "PackModalities",
    "PairDataset",
    "ShardDataset",
    "Tokenize",
    "Tokenizer",
]
