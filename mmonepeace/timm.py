"""The image encoder in timm: importing this module registers models with `timm.create_model`.

For each size of `spec.ARCHS`:

- `onepeace_SIZE_patch16`: an image classifier, or with `features_only=True` the maps of its blocks, all
  of stride 16;
- `onepeace_SIZE_vit_adapter`: with `features_only=True`, the only way, maps of strides 4, 8, 16 and 32,
  as decoders for pyramids need them.

Weights come from a file of any official or own layout:
`create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(file=PATH))`.

Shapes: B batch, C channels of images, H, W pixels, h, w patches, L tokens (CLS first), D width.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from timm.models import (
    adapt_input_conv,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._features import FeatureGetterNet, feature_take_indices
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from mmonepeace import checkpoint
from mmonepeace.layers.adapters.image import FIRST_CONVS
from mmonepeace.layers.kernels import Backend
from mmonepeace.models import OnePeace, OnePeaceViTAdapter
from mmonepeace.models.initialization import reset_weight
from mmonepeace.spec import (
    ARCHS,
    CLIP_MEAN,
    CLIP_STD,
    INIT_STD,
    LAYER_SCALE_INIT,
    PATCH_SIZE,
    PRETRAIN_IMG_SIZE,
    get_arch,
)

_logger = logging.getLogger(__name__)

_STRIDES = (4, 8, 16, 32)  # of the ViT-Adapter's maps
# Names in the encoder, with those of a file: what has the channels of the images.
_INPUT_CONVS = (
    *(f"adapters.image.{name}.weight" for name in FIRST_CONVS.values()),
    "vit_adapter.spatial_prior.stem.0.weight",
)
_SOURCES = ("file", "url", "hf_hub_id", "state_dict")  # of weights, in timm's configuration
_NO_DECAY = ("cls_token", "pos_embed", "type_embed", "type_embed_2")
# What files need not have: an encoder has no head, an exported vision branch no final norm.
_ALLOW_MISSING = (r"norms\.", r"head\.", r"vit_adapter\.")
_Indices = int | list[int] | None

__all__ = ["OnePeaceMaps", "OnePeacePyramid", "OnePeaceViT"]


class _Encoder(nn.Module):
    """What timm asks of every model, around an encoder of ours."""

    num_classes = 0

    backbone: Any  # `OnePeace` or a subclass; torch types parts of modules as tensors

    def __init__(self, backbone: OnePeace) -> None:
        super().__init__()
        self.backbone = backbone
        self.in_chans = backbone.adapters["image"].in_channels
        self.embed_dim = self.num_features = self.head_hidden_size = backbone.arch.embed_dim

    def load_pretrained(self, checkpoint_path: str | Path, prefix: str = "") -> None:
        """Load a file or folder of any official or own layout; timm calls it for `pretrained=True`.

        Positions and relative position tables are resampled to `img_size`, a shared table is copied
        to each block with `rpb="per_block"`, which a file of a fine-tuned model sets, the first
        convolution is adapted to `in_chans`, and a head of another number of classes is left out.

        Raises:
            mmonepeace.checkpoint.CheckpointError: if the file cannot be used or does not fit.
        """
        report = self.load_converted(checkpoint.read_own(checkpoint_path), checkpoint_path)
        _logger.info("%s:\n%s", checkpoint_path, report)

    def load_converted(
        self, converted: checkpoint.Conversion, name: str | Path = "the state dict"
    ) -> checkpoint.LoadReport:
        """Load weights under our names, see `load_pretrained`; `name` is for messages."""
        if "adapters.image.rpb.tables.1" in converted.weights:
            self.backbone.decouple_rpb()  # the file is of a fine-tuned model
        own = {key.removeprefix("backbone."): value for key, value in self.state_dict().items()}
        weights = {}
        for key, value in converted.weights.items():
            target = own.get(key)
            if target is not None and target.shape != value.shape:
                if key.startswith("head.fc."):
                    _logger.info("%s of %s has other classes: left out.", key, name)
                    continue
                if key in _INPUT_CONVS and value.shape[1] == 3:
                    value = adapt_input_conv(self.in_chans, value)
            weights[key] = value
        converted = checkpoint.Conversion(weights, converted.meta, converted.rows)
        return checkpoint.load_checkpoint(self, str(name), _ALLOW_MISSING, converted)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict of this model, or of any official or own layout.

        timm's `checkpoint_path` comes here, through its own reader. Of other layouts, what may be
        missing is as in `load_pretrained`.
        """
        if state_dict.keys() & self.state_dict().keys():
            return super().load_state_dict(state_dict, strict, assign)
        report = self.load_converted(checkpoint.to_own(state_dict))
        return _IncompatibleKeys(report.missing, report.unused)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of each block in the backward pass."""
        self.backbone.layers.with_cp = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of positions, CLS, type vectors and relative position tables."""
        return {
            name
            for name, _ in self.named_parameters()
            if name.endswith(_NO_DECAY) or ".rpb.tables." in name
        }

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups for timm's layer-wise learning rate decay: the depths of `OnePeace.get_layer_depth`.

        These are the stem, each block, and all that comes after; if `coarse`, the stem and the rest.
        With `rpb="per_block"` the tables belong to their blocks.
        """
        stem, table = r"^backbone\.adapters\.", r"image\.rpb\.tables\."
        blocks = [(r"^backbone\.layers\.(\d+)", None)]
        if len(self.backbone.adapters["image"].rpb.tables) > 1:
            blocks.append((rf"{stem}{table}(\d+)", None))
            stem = rf"{stem}(?!{table})"
        return {"stem": stem, "blocks": [] if coarse else blocks}


class OnePeaceViT(_Encoder):
    """Image classifier: the mean of the patches, LayerNorm, dropout, linear.

    Images may have any height and width; sides are padded to multiples of 16. Pixels are normalised
    with the mean and standard deviation of CLIP, as `timm.data.resolve_data_config` says.

    Args:
        arch: a key of `spec.ARCHS`.
        img_size: side of the square image whose grid the positions and tables are for; of other
            images they are resampled in the forward pass.
        in_chans: channels of the images.
        num_classes: outputs; 0 gives the pooled features.
        global_pool: "avg", the mean of the patches, as officially; "token", CLS; "", all tokens.
        drop_rate: dropout before the last layer.
        drop_path_rate: of the last block, increasing linearly from 0 at the first.
        rpb: "shared" or "per_block", see `OnePeace`.
        layer_scale_init: see `OnePeace`.
        attention: see `OnePeace`.
    """

    head: Any  # a module, whose parts torch does not type
    num_prefix_tokens = 1
    has_cls_token = True

    def __init__(
        self,
        arch: str,
        img_size: int | tuple[int, int] = PRETRAIN_IMG_SIZE,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: Literal["avg", "token", ""] = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        rpb: Literal["shared", "per_block"] = "shared",
        layer_scale_init: float | None = LAYER_SCALE_INIT,
        attention: Backend = "auto",
    ) -> None:
        super().__init__(
            OnePeace(
                arch,
                dict(image=dict(in_channels=in_chans)),
                _side(img_size),
                rpb=rpb,
                final_norm=True,
                drop_path_rate=drop_path_rate,
                layer_scale_init=layer_scale_init,
                attention=attention,
            )
        )
        self.feature_info = [
            dict(module=f"backbone.layers.{i}", num_chs=self.embed_dim, reduction=PATCH_SIZE)
            for i in range(self.backbone.arch.depth)
        ]
        self.head = nn.Sequential(OrderedDict(drop=nn.Dropout(drop_rate), fc=nn.Identity()))
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> Any:
        """The last layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a new one, and the pooling, if one is given."""
        if global_pool not in ("avg", "token", "", None):
            raise ValueError(f"global_pool is {global_pool!r}; choose 'avg', 'token' or ''.")
        if global_pool is not None:
            self.global_pool = global_pool
        self.num_classes = num_classes
        fc: nn.Module = nn.Identity()
        if num_classes:
            like = self.backbone.adapters["image"].pos_embed
            fc = nn.Linear(self.embed_dim, num_classes, device=like.device, dtype=like.dtype)
            reset_weight(fc.weight, INIT_STD)
            nn.init.zeros_(fc.bias)
        self.head.fc = fc

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, L, D), before the norm."""
        tokens = self.backbone.embed({"image": images_BCHW})
        return self.backbone.layers(tokens, [len(self.backbone.layers) - 1])[0]

    def forward_head(self, x_BLD: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, L, D) -> (B, classes), or (B, D), the input of the last layer, with `pre_logits`.

        With `global_pool=""`, both have a dimension of tokens.
        """
        x = x_BLD
        if self.global_pool:
            x = x[:, 1:].mean(1) if self.global_pool == "avg" else x[:, 0]
        x = self.head.drop(self._normalise(x))
        return x if pre_logits else self.head.fc(x)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        return self.forward_head(self.forward_features(images_BCHW))

    def _normalise(self, x: Tensor) -> Tensor:
        norms = self.backbone.norms
        return norms["image"](x) if "image" in norms else x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: _Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of blocks, as timm defines this method.

        Args:
            x: images (B, C, H, W).
            indices: of blocks; a number n takes the last n, None all.
            return_prefix_tokens: give pairs of the output and CLS (B, 1, D).
            norm: apply the final norm to each.
            stop_early: stop at the last of the blocks.
            output_fmt: "NCHW", maps (B, D, h, w); "NLC", tokens (B, h * w, D).
            intermediates_only: return the outputs only; else the final tokens come before them.

        Raises:
            ValueError: for another format.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is {output_fmt!r}; choose 'NCHW' or 'NLC'.")
        depth = len(self.backbone.layers)
        chosen, last = feature_take_indices(depth, indices)
        stop_early = stop_early or intermediates_only
        wanted = sorted({*chosen, last if stop_early else depth - 1})
        tokens = self.backbone.embed({"image": x})
        outputs = dict(zip(wanted, self.backbone.layers(tokens, wanted), strict=True))
        maps: list[Any] = []
        for block in sorted(set(chosen)):
            y = self._normalise(outputs[block]) if norm else outputs[block]
            prefix, y = y[:, :1], y[:, 1:]
            if output_fmt == "NCHW":
                y = y.transpose(1, 2).unflatten(2, tokens.grid).contiguous()
            maps.append((y, prefix) if return_prefix_tokens else y)
        return maps if intermediates_only else (outputs[wanted[-1]], maps)

    def prune_intermediate_layers(
        self, indices: _Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks after the last of `indices`, their tables, and what follows them."""
        chosen, last = feature_take_indices(len(self.backbone.layers), indices)
        del self.backbone.layers[last + 1 :]
        rpb = self.backbone.adapters["image"].rpb
        if len(rpb.tables) > 1:
            rpb.tables = nn.ParameterList(list(rpb.tables)[: last + 1])
        if prune_norm:
            self.backbone.norms = nn.ModuleDict()
        if prune_head:
            self.reset_classifier(0, "")
        return chosen


class OnePeacePyramid(_Encoder):
    """Maps of strides 4, 8, 16 and 32, from the encoder with a ViT-Adapter.

    Args:
        arch: a key of `spec.ARCHS`.
        img_size: see `OnePeaceViT`.
        in_chans: channels of the images.
        drop_path_rate: see `OnePeaceViT`; also of the adapter's FFNs.
        rpb: "shared" or "per_block", see `OnePeace`; the released segmentors have the latter.
        layer_scale_init: see `OnePeace`.
        norm: type of the norms of the convolutions, "BN" or "SyncBN".
        attention: see `OnePeace`.
    """

    def __init__(
        self,
        arch: str,
        img_size: int | tuple[int, int] = PRETRAIN_IMG_SIZE,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        rpb: Literal["shared", "per_block"] = "shared",
        layer_scale_init: float | None = LAYER_SCALE_INIT,
        norm: Literal["BN", "SyncBN"] = "BN",
        attention: Backend = "auto",
    ) -> None:
        super().__init__(
            OnePeaceViTAdapter(
                arch,
                norm_cfg={"type": norm},
                drop_path_rate=drop_path_rate,
                modalities=dict(image=dict(in_channels=in_chans)),
                img_size=_side(img_size),
                rpb=rpb,
                layer_scale_init=layer_scale_init,
                attention=attention,
            )
        )
        self.feature_info = [
            dict(module=f"backbone.vit_adapter.norm{i}", num_chs=self.embed_dim, reduction=stride)
            for i, stride in enumerate(_STRIDES, 1)
        ]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: _Indices = None,
        norm: bool = False,
        output_fmt: Literal["NCHW"] = "NCHW",
        intermediates_only: bool = True,
    ) -> list[Tensor]:
        """(B, C, H, W) -> the maps (B, D, ceil(H / stride), ceil(W / stride)) of `indices`, 0 to 3.

        They are normalised already; the other arguments have one choice.
        """
        if output_fmt != "NCHW" or not intermediates_only:
            raise ValueError("the ViT-Adapter gives maps only: output_fmt='NCHW'.")
        chosen, _ = feature_take_indices(len(_STRIDES), indices)
        maps = self.backbone(x)
        return [maps[i] for i in sorted(set(chosen))]


class OnePeaceMaps(FeatureGetterNet):
    """What `features_only=True` gives: (B, C, H, W) -> a list of maps (B, D, h, w)."""

    model: Any

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict of this model, or one of any official or own layout."""
        if any(key.startswith("model.") for key in state_dict):
            return super().load_state_dict(state_dict, strict, assign)
        report = self.model.load_converted(checkpoint.to_own(state_dict))
        return _IncompatibleKeys(report.missing, report.unused)


def _side(img_size: int | Sequence[int]) -> int:
    sides = {img_size} if isinstance(img_size, int) else set(img_size)
    if len(sides) != 1:
        raise ValueError(
            f"img_size is {img_size}, expected one side of a square. It only names the grid that "
            "positions are stored for: images may have any height and width."
        )
    return sides.pop()


def _load_filtered(state_dict: Mapping[str, Any], model: _Encoder) -> dict[str, Any]:
    """Weights that timm has read from a folder or a hub: loaded here, because timm knows one layout."""
    model.load_converted(checkpoint.to_own(state_dict))
    return model.state_dict()


def _create(
    name: str,
    model_cls: Callable[..., _Encoder],
    feature_cfg: dict[str, Any],
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    overlay = {"custom_load": True, **(pretrained_cfg_overlay or {})}
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, overlay)
    if pretrained and not any(getattr(cfg, source) for source in _SOURCES):
        raise ValueError(
            f"{name}: pretrained=True without a file. github.com/OFA-Sys/ONE-PEACE lists the released "
            "checkpoints (one-peace-vision.pkl has the image encoder, of size giant). Name one, or "
            "yours: pretrained_cfg_overlay=dict(file=PATH), or --pretrained-path PATH of timm's scripts."
        )
    return build_model_with_cfg(
        model_cls,
        name,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=_load_filtered,
        feature_cfg=dict(feature_cls=OnePeaceMaps, **feature_cfg),
        **options,
    )


_CFG: dict[str, Any] = dict(
    input_size=(3, PRETRAIN_IMG_SIZE, PRETRAIN_IMG_SIZE),
    interpolation="bicubic",
    crop_pct=1.0,
    mean=CLIP_MEAN,
    std=CLIP_STD,
    num_classes=1000,
    first_conv="backbone.adapters.image.stem.0",
    license="apache-2.0",
)
_CFGS: dict[str, Any] = {
    **{f"onepeace_{size}_patch16": {**_CFG, "classifier": "head.fc"} for size in ARCHS},
    **{f"onepeace_{size}_vit_adapter": {**_CFG, "num_classes": -1} for size in ARCHS},
}
default_cfgs = generate_default_cfgs(_CFGS)


def _vit(size: str) -> Callable[..., nn.Module]:
    name, depth = f"onepeace_{size}_patch16", get_arch(size).depth
    quarters = tuple(depth * (i + 1) // 4 - 1 for i in range(4))

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(
            name, OnePeaceViT, dict(out_indices=quarters), pretrained, arch=size, **kwargs
        )

    return _named(create, name, "as an image classifier, or maps of stride 16.")


def _pyramid(size: str) -> Callable[..., nn.Module]:
    name = f"onepeace_{size}_vit_adapter"

    def create(pretrained: bool = False, features_only: bool = False, **kwargs: Any) -> nn.Module:
        if not features_only:
            raise ValueError(
                f"{name} gives maps of four strides: use features_only=True. A classifier is "
                f"onepeace_{size}_patch16."
            )
        unused = {"num_classes", "global_pool", "drop_rate"}
        kwargs = {key: value for key, value in kwargs.items() if key not in unused}
        feature_cfg = dict(out_indices=(0, 1, 2, 3))
        return _create(
            name,
            OnePeacePyramid,
            feature_cfg,
            pretrained,
            features_only=True,
            kwargs_filter=("num_classes", "global_pool"),
            arch=size,
            **kwargs,
        )

    return _named(create, name, "with a ViT-Adapter: maps of strides 4, 8, 16 and 32.")


def _named(create: Callable[..., nn.Module], name: str, what: str) -> Callable[..., nn.Module]:
    """timm registers a function under its name."""
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"ONE-PEACE {what}"
    return register_model(create)


for _size in ARCHS:
    for _make in (_vit, _pyramid):
        _function = _make(_size)
        globals()[_function.__name__] = _function
