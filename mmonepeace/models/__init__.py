"""Models registered in MODELS."""

from mmonepeace.models.onepeace import OnePeace

__all__ = ["OnePeace"]
