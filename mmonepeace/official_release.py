"""The files that the authors of ONE-PEACE have published, and where they are kept on this machine."""

import os
from pathlib import Path
from typing import NamedTuple

from mmonepeace.spec import VOCABULARY_SHA256

_SERVER = "https://one-peace-shanghai.oss-accelerate.aliyuncs.com"
_FOLDER = f"{_SERVER}/one_peace_checkpoints"
_GPT2 = "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe"
_REPOSITORY = "https://raw.githubusercontent.com/OFA-Sys/ONE-PEACE/main/one_peace/utils/BPE"


class OfficialFile(NamedTuple):
    """A file of the official release.

    Args:
        name: on the disk.
        url: where it is published.
        content: what it is.
        loads_into: what of ours reads it.
        sha256: of its content, empty if unknown.
    """

    name: str
    url: str
    content: str
    loads_into: str
    sha256: str = ""


def _checkpoint(name: str, content: str, loads_into: str) -> OfficialFile:
    return OfficialFile(name, f"{_FOLDER}/{name.replace('+', '%2B')}", content, loads_into)


_RETRIEVAL = "`Embedder`, retrieval recipes"
_PREDICTOR = "`Predictor`, its task's recipes"
FILES = (
    OfficialFile(
        "one-peace.pt", f"{_SERVER}/one-peace.pt", "pretrained, image, audio and text",
        "`Embedder`, recipes of all tasks",
    ),
    _checkpoint(
        "one-peace-vision.pkl", "pretrained, image branch",
        "recipes of segmentation, detection and classification",
    ),
    _checkpoint("onepeace_ft_21kto1k_384.pth", "ImageNet-1K, 384 px", "classification with mmpretrain"),
    _checkpoint("onepeace_ft_21kto1k_512.pth", "ImageNet-1K, 512 px", "classification with mmpretrain"),
    _checkpoint(
        "onepeace_det_coco.pth", "COCO boxes and masks", "detection with mmdetection",
    ),
    _checkpoint(
        "onepeace_seg_cocostuff2ade20k.pth", "ADE20K segmentation", "segmentation with mmsegmentation",
    ),
    _checkpoint("onepeace_video_k400.pth", "Kinetics-400", "`Predictor`, classes of videos"),
    _checkpoint("finetune_coco.pt", "COCO image-text retrieval", _RETRIEVAL),
    _checkpoint("finetune_flickr.pt", "Flickr30K image-text retrieval", _RETRIEVAL),
    _checkpoint("finetune_al_retrieval.pt", "AudioCaps and Clotho audio-text retrieval", _RETRIEVAL),
    _checkpoint("finetune_refcoco.pt", "RefCOCO grounding", _PREDICTOR),
    _checkpoint("finetune_refcoco+.pt", "RefCOCO+ grounding", _PREDICTOR),
    _checkpoint("finetune_refcocog.pt", "RefCOCOg grounding", _PREDICTOR),
    _checkpoint("finetune_vqa.pt", "VQA v2, 3,129 answers", _PREDICTOR),
    _checkpoint("finetune_nlvr2.pt", "NLVR2", _PREDICTOR),
    _checkpoint("finetune_fsd50k.pt", "FSD50K, 200 classes", _PREDICTOR),
    _checkpoint("finetune_vggsound.pt", "VGGSound, 309 classes", _PREDICTOR),
    _checkpoint("finetune_aqa.pt", "AVQA questions about sounds", _PREDICTOR),
    OfficialFile(
        "dict.txt", f"{_REPOSITORY}/dict.txt", "vocabulary: numbering", "`mmonepeace convert-tokenizer`",
        VOCABULARY_SHA256["dictionary"],
    ),
    OfficialFile(
        "vocab.bpe", f"{_GPT2}/vocab.bpe", "vocabulary: merges", "`mmonepeace convert-tokenizer`",
        VOCABULARY_SHA256["merges"],
    ),
    OfficialFile(
        "encoder.json", f"{_GPT2}/encoder.json", "vocabulary: tokens", "`mmonepeace convert-tokenizer`",
        VOCABULARY_SHA256["encoder"],
    ),
)  # fmt: skip


def markdown_table() -> str:
    """The table of README."""
    lines = ["| file | content | loads into |", "|---|---|---|"]
    lines += [f"| [`{f.name}`]({f.url}) | {f.content} | {f.loads_into} |" for f in FILES]
    return "\n".join(lines)


def find_file(name: str) -> Path | None:
    """A published file on this machine, in `folders()`; None if it is in neither."""
    return next((path for folder in folders() if (path := folder / name).is_file()), None)


def folders() -> tuple[Path, Path]:
    """Where published files are looked for: `./checkpoints`, and the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path("checkpoints"), Path(cache, "mmonepeace/checkpoints")
