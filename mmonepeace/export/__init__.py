"""Models as files that run without this package: what can be exported, how, and how well."""

from typing import TYPE_CHECKING

from mmonepeace.lazy_names import lazy_names

if TYPE_CHECKING:
    from mmonepeace.export.exporting import check_packages, export_onnx, export_torch
    from mmonepeace.export.graphs import (
        Graph,
        classifier_graph,
        encoder_graph,
        find_obstacle,
        segmentor_graph,
    )
    from mmonepeace.export.measuring import Measured, measure

__all__ = [
    "Graph", "Measured", "check_packages", "classifier_graph", "encoder_graph", "export_onnx",
    "export_torch", "find_obstacle", "measure", "segmentor_graph",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__)
