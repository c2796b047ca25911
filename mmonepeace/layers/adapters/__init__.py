"""Modality adapters: raw input to tokens. One class and one entry of `ADAPTERS` per modality."""

from mmonepeace.layers.adapters.audio import AudioAdapter
from mmonepeace.layers.adapters.base import Adapter
from mmonepeace.layers.adapters.image import ImageAdapter
from mmonepeace.layers.adapters.text import TextAdapter

__all__ = ["ADAPTERS", "Adapter", "AudioAdapter", "ImageAdapter", "TextAdapter"]

# In the order of the modalities in a joint sequence.
ADAPTERS: dict[str, type[Adapter]] = {
    "text": TextAdapter,
    "image": ImageAdapter,
    "audio": AudioAdapter,
}
