"""What a person sees of results: images, grids, maps and pages."""

from mmonepeace.visualization.retrieval_grid import RetrievalGalleryHook, draw_direction

__all__ = ["RetrievalGalleryHook", "draw_direction"]
