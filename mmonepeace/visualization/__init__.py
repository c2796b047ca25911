"""What a person sees of results: drawings on a grid of tiles, and a page of search results."""

from typing import TYPE_CHECKING

from mmonepeace.lazy_names import lazy_names

if TYPE_CHECKING:
    from mmonepeace.visualization.confusion_matrix import draw_confusions
    from mmonepeace.visualization.gallery import write_gallery
    from mmonepeace.visualization.heat_map import draw_heat_maps, extremes
    from mmonepeace.visualization.legend import class_colours
    from mmonepeace.visualization.prediction_page import (
        Answered,
        draw_predictions,
        write_predictions,
    )
    from mmonepeace.visualization.predictions import draw_instances, draw_label_maps
    from mmonepeace.visualization.retrieval_grid import RetrievalGalleryHook, draw_direction

__all__ = [
    "Answered", "RetrievalGalleryHook", "class_colours", "draw_confusions", "draw_direction",
    "draw_heat_maps", "draw_instances", "draw_label_maps", "draw_predictions", "extremes", "write_gallery",
    "write_predictions",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__)
