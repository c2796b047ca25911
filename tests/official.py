"""Names and shapes of official models, and the values that the golden tests fill them with."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

CONVS = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)


def fill(shape: Sequence[int], k: int, scale: float = 1.0) -> Tensor:
    """The deterministic pattern number k: values in [-0.5, 0.5) times a scale."""
    i = torch.arange(torch.Size(shape).numel())
    pattern = ((31 * i * i + 17 * i + 101 * k + 7) % 997).double() / 997 - 0.5
    return (scale * pattern).float().reshape(tuple(shape))


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """A state dict: each parameter by the pattern of its place among the sorted names."""
    weights = {}
    for k, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        if len(shape) == 1 and (name.endswith(".weight") or "gamma_" in name):
            weights[name] = 1 + fill(shape, k, 0.4)
        else:
            weights[name] = fill(shape, k, 0.5 if len(shape) > 1 else 0.2)
    return weights


def _linear(name: str, out_dim: int, in_dim: int) -> Shapes:
    return {f"{name}.weight": (out_dim, in_dim), f"{name}.bias": (out_dim,)}


def _norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def blocks(prefix: str, modalities: Iterable[str], dim: int, ffn: int, depth: int, scale: bool) -> Shapes:  # fmt: skip
    """The shared Transformer."""
    shapes: Shapes = {}
    for i in range(depth):
        layer = f"{prefix}layers.{i}"
        for name in ("q_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", dim, dim)
        shapes[f"{layer}.self_attn.k_proj.weight"] = (dim, dim)
        for norm in ("self_attn.ln", "self_attn_layer_norm", "final_layer_norm"):
            shapes |= _norm(f"{layer}.{norm}", dim)
        for m in modalities:
            shapes[f"{layer}.{m}_ffn.0.wi_0.weight"] = (ffn, dim)
            shapes[f"{layer}.{m}_ffn.0.wi_1.weight"] = (ffn, dim)
            shapes |= _norm(f"{layer}.{m}_ffn.2", ffn)
            shapes |= _linear(f"{layer}.{m}_ffn.3", dim, ffn)
        if scale:
            shapes |= {f"{layer}.gamma_{j}": (dim,) for j in (1, 2)}
    return shapes


def image_adapter(prefix: str, dim: int, heads: int, side: int, tables: int = 1) -> Shapes:
    """The vision adapter with its hMLP stem."""
    stem, quarter = f"{prefix}embed_images", dim // 4
    return {
        f"{prefix}cls_embedding": (1, 1, dim),
        f"{prefix}pos_embed": (side**2 + 1, dim),
        f"{stem}.0.weight": (quarter, 3, 4, 4),
        f"{stem}.0.bias": (quarter,),
        **_norm(f"{stem}.1.layer_norm", quarter),
        f"{stem}.3.weight": (quarter, quarter, 2, 2),
        f"{stem}.3.bias": (quarter,),
        **_norm(f"{stem}.4.layer_norm", quarter),
        f"{stem}.6.weight": (dim, quarter, 2, 2),
        f"{stem}.6.bias": (dim,),
        **_tables(prefix, (2 * side - 1) ** 2 + 3, heads, tables),
    }


def text_adapter(prefix: str, dim: int, heads: int, vocab: int, tables: int = 1) -> Shapes:
    """The language adapter."""
    return {
        f"{prefix}cls_embedding": (1, 1, dim),
        f"{prefix}embed_tokens.weight": (vocab, dim),
        f"{prefix}embed_positions.weight": (514, dim),
        **_tables(prefix, 514, heads, tables),
    }


def audio_adapter(prefix: str, dim: int, heads: int, tables: int = 1, features: int = 512) -> Shapes:  # fmt: skip
    """The audio adapter."""
    shapes: Shapes = {
        f"{prefix}cls_embedding": (1, 1, dim),
        f"{prefix}cls_pos_embed": (1, 1, dim),
        f"{prefix}mask_embedding": (1, dim),
    }
    extractor = f"{prefix}embed_audios"
    for n, (kernel, _) in enumerate(CONVS):
        conv = f"{extractor}.0.conv_layers.{n}"
        shapes[f"{conv}.0.weight"] = (features, features if n else 1, kernel)
        shapes |= _norm(f"{conv}.2.1", features)
    shapes |= _norm(f"{extractor}.2", features) | _linear(f"{extractor}.3", dim, features)
    for n in range(1, 6):
        shapes[f"{prefix}embed_positions.{n}.0.weight"] = (dim, dim // 16, 19)
        shapes[f"{prefix}embed_positions.{n}.0.bias"] = (dim,)
    return shapes | _tables(prefix, 1026, heads, tables)


def _tables(prefix: str, rows: int, heads: int, tables: int) -> Shapes:
    return {f"{prefix}rel_pos_table_list.{j}.weight": (rows, heads) for j in range(tables)}


def encoder(modalities: Sequence[str], dim: int, ffn: int, depth: int, heads: int, *, side: int, vocab: int, tables: int = 1) -> Shapes:  # fmt: skip
    """Adapters, blocks and final norms, under `encoder_wrapper.`."""
    prefix = "encoder_wrapper."
    adapters = {
        "text": lambda p: text_adapter(p, dim, heads, vocab, tables),
        "image": lambda p: image_adapter(p, dim, heads, side, tables),
        "audio": lambda p: audio_adapter(p, dim, heads, tables),
    }
    shapes = blocks(f"{prefix}fusion_model.", modalities, dim, ffn, depth, scale=True)
    for m in modalities:
        shapes |= adapters[m](f"{prefix}{m}_adapter.")
        shapes |= _norm(f"{prefix}fusion_model.{m}_layer_norm", dim)
    return shapes


def pretraining(modalities: Sequence[str], dim: int, ffn: int, depth: int, heads: int, *, side: int, vocab: int, decoder: tuple[int, int, int]) -> Shapes:  # fmt: skip
    """The pretraining model: encoder, projections, decoder (width, FFN, blocks), mask heads."""
    shapes = encoder(modalities, dim, ffn, depth, heads, side=side, vocab=vocab)
    width, hidden, layers = decoder
    prefix = "decoder_wrapper."
    shapes |= blocks(f"{prefix}fusion_model.", modalities, width, hidden, layers, scale=False)
    rows = {"text": 514, "image": side**2 + 1, "audio": 1026}
    for m in modalities:
        shapes |= _linear(f"{m}_proj", dim, dim)
        shapes |= _linear(f"decoder_{m}_embed", width, dim) | _linear(f"{m}_mask_head", dim, width)
        shapes |= _norm(f"{prefix}fusion_model.{m}_layer_norm", width)
        table = "pos_embed" if m == "image" else "embed_positions.weight"
        shapes[f"{m}_mask_token"] = (1, width)
        shapes[f"{prefix}{m}_adapter.cls_embedding"] = (1, 1, width)
        shapes[f"{prefix}{m}_adapter.{table}"] = (rows[m], width)
    if "audio" in modalities:
        shapes[f"{prefix}audio_adapter.mask_embedding"] = (1, width)
    return shapes | {"logit_scale": ()}


def classify_head(dim: int, heads: int, classes: int, ratio: int = 2, *, pooler: bool = True, views: int = 1) -> Shapes:  # fmt: skip
    """The head of a classification model with pooling."""
    head, hidden = "classify_head", ratio * dim
    return {
        **_norm(f"{head}.norm", dim),
        f"{head}.attn_pooling_func.q": (1, 1, heads, dim // heads),
        f"{head}.attn_pooling_func.k_proj.weight": (dim, dim),
        **_linear(f"{head}.attn_pooling_func.v_proj", dim, dim),
        **_linear(f"{head}.attn_pooling_func.out_proj", dim, dim),
        **(_linear(f"{head}.pooler.1", dim, dim) if pooler else {}),
        **_linear(f"{head}.classifier.0", hidden, views * dim),
        **_norm(f"{head}.classifier.1", hidden),
        **_linear(f"{head}.classifier.3", classes, hidden),
    }


# Task -> modalities, options of its head, and what the stored configuration says.
FINE_TUNED = {
    "coco": (("text", "image"), None, {}),
    "refcoco": (("text", "image"), dict(classes=4, pooler=False), {"model": {"use_image_features": True}}),
    "refcocog": (("text", "image"), dict(classes=4, pooler=False), {"model": {"use_image_features": False}}),
    "vqa": (("text", "image"), dict(classes=11), {"criterion": {"use_multi_label": True}}),
    "nlvr2": (("text", "image"), dict(classes=2, pooler=False, views=2), {}),
    "al_retrieval": (("text", "audio"), None, {}),
    "fsd50k": (("audio",), dict(classes=200, pooler=False), {"criterion": {"use_multi_label": True}}),
    "vggsound": (("audio",), dict(classes=9, pooler=False), {"criterion": {"use_multi_label": False}}),
    "aqa": (("text", "audio"), dict(classes=1, pooler=False), {}),
}  # fmt: skip


def fine_tuned(task: str, side: int = 6, positions: int = 4, vocab: int = 400) -> dict:
    """The content of a fine-tuned file: tables of each block for a larger grid than positions."""
    modalities, head, config = FINE_TUNED[task]
    shapes = encoder(modalities, 32, 48, 2, 4, side=side, vocab=vocab, tables=2)
    wrapper = "encoder_wrapper"
    if "image" in modalities:
        shapes[f"{wrapper}.image_adapter.pos_embed"] = (positions**2 + 1, 32)
    if head is None:
        shapes |= {k: v for m in modalities for k, v in _linear(f"{m}_proj", 32, 32).items()}
        shapes["logit_scale"] = ()
    else:
        shapes |= classify_head(32, 4, **head)
    if task == "nlvr2":
        names = ("text_adapter.type_embedding", "image_adapter.type_embedding", "image_adapter.type_embedding_2")  # fmt: skip
        shapes |= {f"{wrapper}.{name}": (1, 1, 32) for name in names}
    return {"args": None, "cfg": {"task": {"_name": task}, **config}, "model": filled(shapes)}
