"""Reading and preparing data; registered in TRANSFORMS and DATASETS."""

from mmonepeace.datasets.pairs import PairDataset
from mmonepeace.datasets.tokenizer import Tokenizer
from mmonepeace.datasets.transforms import LoadAudio, LoadImage, PackModalities, Tokenize

__all__ = ["LoadAudio", "LoadImage", "PackModalities", "PairDataset", "Tokenize", "Tokenizer"]
