"""Facts of the released ONE-PEACE models: sizes, image normalisation, parameter-free formulas.

Every number that more than one module needs is written here once. Source: the official
implementation (state of October 2024) and arXiv 2305.11172.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

PATCH_SIZE = 16  # total stride of the image stem
PRETRAIN_IMG_SIZE = 256  # 16 x 16 patches
LAYER_NORM_EPS = 1e-5
INIT_STD = 0.02
LAYER_SCALE_INIT = 1e-6  # of every released config

# RGB in 0..255 units: 255 times the CLIP statistics, as the official vision recipes write them.
IMAGE_MEAN = (122.771, 116.746, 104.094)
IMAGE_STD = (68.5, 66.632, 70.323)
# The same unrounded, as the official multimodal code uses them on images in 0..1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Token ids of every vocabulary: 0 begin (never inserted), 1 padding, 2 end, 3 unknown.
BOS_ID, PAD_ID, EOS_ID, UNK_ID = range(4)
VOCAB_SIZE = 50264  # of the released models
VOCABULARY_SHA256 = {  # of the files that it is made of
    "dictionary": "2c31c5b236661067fe8626775eb995ef5fe808ac87d2ad4a6ddbef68550f5cc6",
    "merges": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
MAX_TEXT_TOKENS = 70  # before the end token
TEXT_POSITIONS = 514  # rows of the position table; CLS is row 0
TEXT_RPB_BUCKETS = 256

SAMPLE_RATE = 16_000
MIN_AUDIO_SECONDS = 1  # shorter clips are repeated up to it
MAX_AUDIO_SECONDS = 15  # of pretraining
AUDIO_CONVS = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)  # (kernel, stride), wav2vec 2.0
AUDIO_STRIDE = math.prod(stride for _, stride in AUDIO_CONVS)  # samples from frame to frame
AUDIO_FIELD = 400  # samples that a frame is computed from
AUDIO_FEATURE_DIM = 512
MEL_BINS = 64  # of our log-mel option; the released models take waveforms
AUDIO_RPB_BUCKETS = 512

DECODER_POSITIONS = {"text": TEXT_POSITIONS, "audio": 1026}  # images: those of the encoder

MAX_POSITIONS = 1024  # reach of the 1-D relative positions, CLS included

# conv: one 16 x 16 convolution without bias. overlapping: 3 x 3 convolutions of stride 2, not in the
# official code, which learn faster from little data.
Stem = Literal["hmlp", "conv", "overlapping"]


@dataclass(frozen=True)
class Arch:
    """Widths of one model.

    The first four are sizes; the rest are variants of the official code. All released vision
    checkpoints have their defaults, but multimodal files may not (type embeddings); the parity
    tests cover all of them.
    """

    embed_dim: int
    depth: int
    num_heads: int
    ffn_dim: int
    stem: Stem = "hmlp"
    sub_norm: bool = True  # LayerNorm between the heads and the output projection
    ffn_norm: bool = True  # LayerNorm in the middle of the FFN
    head_scale: bool = False  # one learned factor per head
    post_attn_norm: bool = False  # LayerNorm after the output projection
    embed_norm: bool = False  # LayerNorm on the embeddings, before positions
    type_embed: bool = False  # a learned vector per modality

    def __post_init__(self) -> None:
        for name in ("embed_dim", "depth", "num_heads", "ffn_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"arch: {name} is {value!r}, expected an integer of 1 or more.")
        if self.stem not in get_args(Stem):
            stems = ", ".join(get_args(Stem))
            raise ValueError(f"arch: stem is {self.stem!r}; choose one of {stems}.")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}."
            )


ARCHS = {
    "tiny": Arch(192, 12, 3, 768),
    "small": Arch(384, 12, 6, 1536),
    "base": Arch(768, 12, 12, 3072),
    "large": Arch(1024, 24, 16, 4096),
    "giant": Arch(1536, 40, 24, 6144),  # the released one
}


DECODER_ARCH = Arch(768, 2, 12, 2048)  # of pretraining


def get_arch(arch: str | dict[str, Any] | Arch) -> Arch:
    """Look up a size by name, or build one from a dict of widths.

    Args:
        arch: a key of `ARCHS`, a dict with the fields of `Arch` (`ffn_dim` defaults to
            4 * `embed_dim`), or an `Arch`.

    Raises:
        ValueError: for an unknown name, or missing or unknown fields.
    """
    if isinstance(arch, Arch):
        return arch
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f"arch {arch!r} is unknown. Choose one of {', '.join(ARCHS)}, or give a dict "
                "with embed_dim, depth, num_heads and ffn_dim."
            )
        return ARCHS[arch]
    widths = {"ffn_dim": 4 * arch.get("embed_dim", 0), **arch}
    known = [field.name for field in fields(Arch)]
    unknown = sorted(set(widths) - set(known))
    missing = sorted({"embed_dim", "depth", "num_heads"} - set(widths))
    if unknown or missing:
        raise ValueError(
            f"arch dict: unknown fields {unknown}, missing fields {missing}. "
            f"The fields are {', '.join(known)}."
        )
    return Arch(**widths)


def patch_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches of an image whose sides are padded to multiples of the patch size."""
    return -(-height // PATCH_SIZE), -(-width // PATCH_SIZE)


def num_audio_frames(samples: int) -> int:
    """Number of frames of a waveform: 50 per second, 0 below 400 samples."""
    for kernel, stride in AUDIO_CONVS:
        samples = max((samples - kernel) // stride + 1, 0)
    return samples
