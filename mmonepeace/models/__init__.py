"""Models registered in MODELS."""

from mmonepeace.models.classifier import OnePeaceClassifier
from mmonepeace.models.distiller import OnePeaceDistiller
from mmonepeace.models.eomt_heads import EoMTHead, EoMTPanopticHead
from mmonepeace.models.grounder import OnePeaceGrounder
from mmonepeace.models.image_classifier import image_classifier
from mmonepeace.models.necks import SimpleFeaturePyramid
from mmonepeace.models.onepeace import OnePeace
from mmonepeace.models.onepeace_eomt import OnePeaceEoMT
from mmonepeace.models.onepeace_video import OnePeaceVideo
from mmonepeace.models.onepeace_vit_adapter import OnePeaceViTAdapter
from mmonepeace.models.onepeace_vitdet import OnePeaceViTDet
from mmonepeace.models.preprocessor import MultimodalDataPreprocessor
from mmonepeace.models.pretrainer import OnePeacePretrainer
from mmonepeace.models.retriever import OnePeaceRetriever
from mmonepeace.models.task_losses import ClassLoss, HingeLoss, MultiLabelLoss
from mmonepeace.models.teachers import OnePeaceTeacher, TimmTeacher
from mmonepeace.models.video_classifier import OnePeaceVideoClassifier

__all__ = [
    "ClassLoss", "EoMTHead", "EoMTPanopticHead", "HingeLoss", "MultiLabelLoss",
    "MultimodalDataPreprocessor", "OnePeace", "OnePeaceClassifier", "OnePeaceDistiller",
    "OnePeaceEoMT", "OnePeaceGrounder", "OnePeacePretrainer", "OnePeaceRetriever",
    "OnePeaceTeacher", "OnePeaceViTAdapter", "OnePeaceViTDet", "OnePeaceVideo",
    "OnePeaceVideoClassifier", "SimpleFeaturePyramid", "TimmTeacher", "image_classifier",
]  # fmt: skip
