"""Peers of the vision backbone, from packages: BEiTs of the base size with a table for each block."""

import argparse
import sys
from functools import partial
from types import ModuleType

import torch
from runs import Built, vit_run


def timm_beit(
    args: argparse.Namespace, size: int, batch: int, train: bool, dtype: torch.dtype = torch.float32
) -> Built | None:
    """timm's BEiT of the base size, whose blocks have a table of relative positions each."""
    try:
        import timm
    except ImportError:
        return None
    # features only: no pooling, no classifier
    model = timm.create_model("beit_base_patch16_224", img_size=size, num_classes=0)
    model.forward = model.forward_features
    model = model.to(args.device, dtype)
    images = torch.randn(batch, 3, size, size, device=args.device, dtype=dtype)
    return vit_run(model, model.patch_embed, images, len(model.blocks), model.embed_dim, train)


def mmseg_beit(args: argparse.Namespace, size: int, batch: int, train: bool) -> Built | None:
    """mmsegmentation's BEiT of the base size."""
    model = mmseg_models().BEiT(img_size=(size, size), embed_dims=768, num_layers=12, num_heads=12)
    model.to(args.device)
    images = torch.randn(batch, 3, size, size, device=args.device)
    return vit_run(model, model.patch_embed, images, 12, 768, train)


def transformers_beit(args: argparse.Namespace, size: int, batch: int, train: bool) -> Built | None:
    """The BEiT of transformers, of the base size, with a table of relative positions each block."""
    try:
        from transformers import BeitConfig, BeitModel
    except ImportError:
        return None
    config = BeitConfig(image_size=size, use_relative_position_bias=True)
    beit = BeitModel(config, add_pooling_layer=False).to(args.device)
    images = torch.randn(batch, 3, size, size, device=args.device)
    beit.forward = partial(beit.forward, return_dict=False)
    return vit_run(beit, beit.embeddings, images, 12, 768, train)


def mmseg_models() -> ModuleType:
    """mmseg.models. It imports mmpretrain where that is installed, which transformers 5 breaks."""
    hidden = sys.modules.get("transformers")
    sys.modules["transformers"] = None
    try:
        import mmseg.models
    finally:
        del sys.modules["transformers"]
        if hidden:
            sys.modules["transformers"] = hidden
    return mmseg.models
