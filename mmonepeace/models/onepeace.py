"""The ONE-PEACE backbone.

Shapes: B batch, L tokens (CLS first), D width.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn

from mmonepeace import checkpoint
from mmonepeace.layers.adapters import ADAPTERS
from mmonepeace.layers.adapters.image import PatchConv
from mmonepeace.layers.encoder import (
    EncoderLayer,
    FusionEncoder,
    SelfAttention,
    activation_checkpoint,
)
from mmonepeace.layers.kernels import Backend, check_backend
from mmonepeace.layers.tokens import Tokens
from mmonepeace.layers.value_path import encode_both_paths
from mmonepeace.models.initialization import reset_weight
from mmonepeace.models.layer_depth import layer_depth
from mmonepeace.models.lora import Lora, inject
from mmonepeace.models.saved_backbone import SavedBackbone
from mmonepeace.models.trained_parameters import train_only
from mmonepeace.registry import MODELS, WEIGHT_INITIALIZERS
from mmonepeace.spec import (
    INIT_STD,
    LAYER_NORM_EPS,
    LAYER_SCALE_INIT,
    PRETRAIN_IMG_SIZE,
    Arch,
    get_arch,
)


@MMENGINE_MODELS.register_module()  # `OnePeace` from any MM library, once imported
@MODELS.register_module()
class OnePeace(SavedBackbone, BaseModule):
    """One Transformer with shared attention and one FFN per modality.

    As a backbone it takes images of any height and width and returns feature maps of stride 16.
    Positions and relative position bias (RPB) are stored for one square grid and resampled for every
    other grid in the forward pass.

    Args:
        arch: "tiny", "small", "base", "large", "giant" (the released size), or a dict with
            embed_dim, depth, num_heads and ffn_dim.
        modalities: branches to build, or a dict from branch to options of its adapter, such as
            `dict(image={}, text=dict(vocab_size=8000))`; see `layers.adapters`.
        img_size: side in pixels, a multiple of 16, of the square image whose grid the positions
            and RPB tables are for. Images of this size need no resampling; weights of
            another size are resampled when they are loaded.
        rpb: "shared", one table for all blocks (pretraining), or "per_block", decoupled tables
            (fine-tuning). A shared table in a checkpoint is copied to each block.
        out_indices: blocks whose maps are returned; negative ones count from the last.
        out_type: of the image backbone: "featmap", maps; "avg_featmap", the mean of the patches;
            "cls_token". The final norm, if there is one, comes after the mean.
        stem_maps: return the maps of strides 4 and 8 of an overlapping stem too, before those of blocks.
        final_norm: end with the LayerNorm of each modality. The exported vision branch has none.
        drop_path_rate: of the last block, increasing linearly from 0 at the first.
        layer_scale_init: initial LayerScale; None leaves it out. The released models began with
            1e-6; when training from scratch, 0.1 learns faster at first, as does 1 in shallow models.
        init_std: of the initial weights, a normal truncated at one std. The official value is
            made for the released width; narrow models learn faster with a larger one.
        frozen_stages: -1 trains everything, 0 freezes the adapters, k the first k blocks too.
        trained: groups of parameters that are trained, of `trained_parameters.GROUPS`, all else being
            frozen; () freezes the backbone. None: everything, or with `lora` nothing else.
        lora: options of LoRA on the blocks, see `lora.Lora`, such as `dict(rank=16)`.
        with_cp: activation checkpointing: less memory, a fifth to a third more time.
        attention: what computes it, see `layers.kernels.attend`.
        compiled: compile the blocks with `torch.compile`, see `FusionEncoder`. For GPUs: the kernels
            for CPUs are not used then.
        init_cfg: `dict(type="Pretrained", checkpoint=PATH)` with a file of any official or own
            layout; its other modalities are left out. Or `PretrainedAudioExtractor`, or a list of both.

    Attributes:
        allow_missing: regular expressions of parameters that a checkpoint may lack.
        training_facts: what is known of the run that the loaded checkpoint is of.
    """

    allow_missing: tuple[str, ...] = ()
    adapters: Any  # an nn.ModuleDict, whose values torch types as plain modules

    def __init__(
        self,
        arch: str | dict[str, Any] | Arch = "giant",
        modalities: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("image",),
        img_size: int = PRETRAIN_IMG_SIZE,
        rpb: Literal["shared", "per_block"] = "shared",
        out_indices: int | Sequence[int] = -1,
        out_type: Literal["featmap", "avg_featmap", "cls_token"] = "featmap",
        stem_maps: bool = False,
        final_norm: bool = False,
        drop_path_rate: float = 0.0,
        layer_scale_init: float | None = LAYER_SCALE_INIT,
        init_std: float = INIT_STD,
        frozen_stages: int = -1,
        trained: Sequence[str] | None = None,
        lora: Mapping[str, Any] | None = None,
        with_cp: bool = False,
        attention: Backend = "auto",
        compiled: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = get_arch(arch)
        if rpb not in ("shared", "per_block"):
            raise ValueError(f"rpb is {rpb!r}; choose 'shared' or 'per_block'.")
        if out_type not in ("featmap", "avg_featmap", "cls_token"):
            raise ValueError(
                f"out_type is {out_type!r}; choose 'featmap', 'avg_featmap' or 'cls_token'."
            )
        unknown = sorted(set(modalities) - set(ADAPTERS))
        if unknown or not modalities or len(set(modalities)) < len(modalities):
            raise ValueError(
                f"modalities are {tuple(modalities)}; choose one or more of {tuple(ADAPTERS)}, "
                "each once."
            )
        options: dict[str, Any] = {name: {} for name in modalities} | dict(
            modalities if isinstance(modalities, Mapping) else {}
        )
        if "image" in options:
            options["image"] = {"img_size": img_size, **options["image"]}
        depth = self.arch.depth
        if not -1 <= frozen_stages <= depth:
            raise ValueError(f"frozen_stages is {frozen_stages}, expected -1 to {depth}.")
        self.out_indices = _resolve_indices(out_indices, depth)
        self.out_type = out_type
        self.stem_maps = stem_maps
        if stem_maps and (self.arch.stem != "overlapping" or out_type != "featmap"):
            raise ValueError(
                f"stem_maps needs arch.stem 'overlapping' and out_type 'featmap'; they are "
                f"{self.arch.stem!r} and {out_type!r}."
            )
        if out_type != "featmap":
            self.allow_missing = (r"norms\.",)  # exported vision branches have no final norm
        self.training_facts: dict[str, str] = {}
        self.frozen_stages = frozen_stages
        self.init_std = init_std
        self._decoupled = rpb == "per_block" and depth > 1
        num_tables = depth if rpb == "per_block" else 1
        self.adapters = nn.ModuleDict(
            {
                name: adapter(name, self.arch, num_tables, **options[name])  # type: ignore[arg-type]
                for name, adapter in ADAPTERS.items()  # subclasses, which take num_tables
                if name in options
            }
        )
        self.layers = FusionEncoder(
            self.arch,
            self.adapters,
            drop_path_rate,
            layer_scale_init,
            with_cp,
            self.build_attention,
            compiled,
            self.build_layer,
        )
        backend = check_backend(attention)
        for module in self.layers.modules():
            if isinstance(module, SelfAttention):
                module.backend = backend
        self.norms = nn.ModuleDict(
            {
                name: nn.LayerNorm(self.arch.embed_dim, LAYER_NORM_EPS)
                for name in self.adapters
                if final_norm
            }
        )
        self._reset_parameters()
        self.lora = None if lora is None else Lora(**lora)
        if self.lora:
            inject(self, self.lora)
        if trained is not None or self.lora:
            if frozen_stages >= 0:
                raise ValueError(
                    f"frozen_stages is {frozen_stages}, but trained and lora freeze the backbone "
                    "themselves. Leave it out."
                )
            train_only(self, trained or ())
        self._freeze()
        self._register_load_state_dict_pre_hook(checkpoint.adapt_on_load, with_module=True)

    def decouple_rpb(self) -> None:
        """Give each block a relative position bias of its own, as `rpb="per_block"` does."""
        if not self._decoupled and self.arch.depth > 1:
            for adapter in self.adapters.values():
                adapter.rpb.decouple(self.arch.depth)
            self._decoupled = True

    def build_attention(self, block: int) -> SelfAttention:
        """The attention of a block; called by the constructor, for subclasses to override."""
        return SelfAttention(self.arch)

    def build_layer(self, *args: Any) -> EncoderLayer:
        """A block, of the arguments of `EncoderLayer`; for subclasses to override."""
        return EncoderLayer(*args)

    @torch.no_grad()
    def _reset_parameters(self) -> None:
        """Initialise as the official multimodal code does.

        Tables and type vectors start at zero; convolutions other than of patches initialise
        themselves.
        """

        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                reset_weight(module.weight, self.init_std)
            if isinstance(module, nn.Linear | PatchConv) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
        for name, parameter in self.adapters.named_parameters():
            if name.endswith(("cls_token", "pos_embed")):
                reset_weight(parameter, self.init_std)
        for adapter in self.adapters.values():
            adapter.reset_positions()

    def init_weights(self) -> None:
        """Load the files of `init_cfg`, if there are any.

        Raises:
            mmonepeace.checkpoint.CheckpointError: if a file cannot be used or does not fit.
        """
        steps = self.init_cfg if isinstance(self.init_cfg, list | tuple) else [self.init_cfg]
        for step in steps if self.init_cfg and not self.is_init else []:
            match step.get("type"):
                case "Pretrained":
                    report = self.load_checkpoint(step["checkpoint"])
                    print_log(f"{step['checkpoint']}:\n{report}", logger="current")
                case "mmonepeace.PretrainedAudioExtractor":
                    WEIGHT_INITIALIZERS.build(step)(self)
                case _:
                    raise ValueError(
                        f"init_cfg {step} is not supported; use dict(type='Pretrained', "
                        "checkpoint=PATH), or None for the official initialisation."
                    )
        self._is_init = True

    def load_checkpoint(
        self, path: str, allow_missing: Sequence[str] = ()
    ) -> checkpoint.LoadReport:
        """Load a file of any official or own layout; report what was missing, unused and resampled.

        Args:
            path: see `checkpoint.read`.
            allow_missing: regular expressions of parameters that the file may lack, besides the
                attribute `allow_missing`.

        Raises:
            mmonepeace.checkpoint.CheckpointError: if the file cannot be used or does not fit.
        """
        return checkpoint.load_checkpoint(self, path, (*self.allow_missing, *allow_missing))

    def adopt_metadata(self, meta: Mapping[str, Any]) -> None:
        """Follow the metadata of a checkpoint in what the config does not set, such as audio padding."""
        self.training_facts = {k: str(v) for k, v in meta.items() if k.startswith("trained_")}
        for adapter in self.adapters.values():
            adapter.adopt_metadata(meta)

    def metadata(self) -> dict[str, str]:
        """What a checkpoint of this model has to say besides its weights."""
        meta = {"format": "mmonepeace"}
        if self.lora:
            meta["lora"] = self.lora.metadata(self)
        for adapter in self.adapters.values():
            meta |= adapter.metadata()
        return meta

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        self.adapters.requires_grad_(False)
        for layer in list(self.layers)[: self.frozen_stages]:
            layer.requires_grad_(False)
            layer.eval()
        self.adapters.eval()
        for name, table in self.adapters.named_parameters():
            # Decoupled tables belong to their blocks.
            if self._decoupled and (match := re.search(r"\.rpb\.tables\.(\d+)$", name)):
                table.requires_grad_(int(match[1]) >= self.frozen_stages)

    def train(self, mode: bool = True) -> "OnePeace":
        """Switch modes; frozen blocks stay in eval, without stochastic depth."""
        super().train(mode)
        self._freeze()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """(Depth, number of depths) of a parameter, see `layer_depth`.

        `prefix` is the name of this backbone in the model, such as "backbone.".
        """
        return layer_depth(param_name.removeprefix(prefix), self.arch.depth, self._decoupled)

    def embed(
        self,
        inputs: Mapping[str, Tensor | tuple[Any, ...]],
        keep: Mapping[str, Tensor | tuple[Any, ...]] | None = None,
    ) -> Tokens:
        """Turn the inputs of one or more modalities into one sequence of tokens.

        Text comes first, then image, then audio, whatever the order of the inputs; there is no
        relative position bias between modalities.

        Args:
            inputs: modality -> what its adapter takes (a tuple if that is more than a tensor):
                images (B, 3, H, W), text ids (B, T), waveforms (B, S) or (waveforms, padding). For
                texts and audio, `MultimodalDataPreprocessor` adds padding for the CPU, see `Tokens`.
            keep: modality -> positions to keep, or a tuple of what `Tokens.keep` takes.

        Returns:
            tokens to encode.

        Raises:
            ValueError: for a modality that the model lacks, or inputs its adapter refuses.
        """
        return self.to_tokens(self.features(inputs), keep)

    def features(self, inputs: Mapping[str, Tensor | tuple[Any, ...]]) -> dict[str, Any]:
        """The part of `embed` that several views of the same inputs share: modality -> features."""
        unknown = [name for name in inputs if name not in self.adapters]
        if unknown or not inputs:
            raise ValueError(
                f"inputs are {tuple(inputs)}; this model has {tuple(self.adapters)}. Build it "
                "with modalities=(...) that include what you want to encode."
            )
        return {
            name: self.adapters[name].features(*as_arguments(value))
            for name, value in inputs.items()
        }

    def to_tokens(
        self,
        features: Mapping[str, Any],
        keep: Mapping[str, Tensor | tuple[Any, ...]] | None = None,
    ) -> Tokens:
        """One sequence of what `features` returns, at the positions `keep`, see `embed`."""
        keep = keep or {}
        if set(keep) - set(features):
            raise ValueError(
                f"keep has {tuple(keep)}, but the inputs are {tuple(features)}: expected "
                "positions of these only."
            )
        return Tokens.join(
            [
                adapter.to_tokens(features[name], *as_arguments(keep.get(name)))
                for name, adapter in self.adapters.items()
                if name in features
            ]
        )

    def encode(self, tokens: Tokens, skip_padding: bool = False) -> dict[str, Tensor]:
        """Run all blocks and the final norms: modality -> (B, L, D), CLS first.

        Rows of padding are undefined. Without `skip_padding`, see `encode_views`, they are computed
        as in the official code.
        """
        if skip_padding:
            return self.encode_views([tokens])[0]
        return self._normalise(tokens, self.layers(tokens, [self.arch.depth - 1])[0])

    def encode_both_paths(self, tokens: Tokens) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What `encode` returns, and the same by the value path, see `layers.value_path`."""
        attended, own = encode_both_paths(self.layers, tokens)
        return self._normalise(tokens, attended), self._normalise(tokens, own)

    def encode_views(self, views: Sequence[Tokens]) -> list[dict[str, Tensor]]:
        """What `encode` returns for several batches, see `FusionEncoder.encode_packed`."""
        outputs = self.layers.encode_packed(views)
        return [self._normalise(view, x) for view, x in zip(views, outputs, strict=True)]

    def _normalise(self, tokens: Tokens, x_BLD: Tensor) -> dict[str, Tensor]:
        return {
            name: self.norms[name](x) if name in self.norms else x
            for name, x in tokens.split(x_BLD).items()
        }

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images of any one size, (B, 3, H, W) RGB, normalised as in `spec`.

        Returns:
            one (B, D, ceil(H / 16), ceil(W / 16)) for each of `out_indices`; (B, D) with another
            `out_type`. With `stem_maps`, (B, D / 4, ceil(H / 4), ceil(W / 4)) and
            (B, D / 2, ceil(H / 8), ceil(W / 8)) come first.
        """
        if "image" not in self.adapters:
            raise ValueError(f"this OnePeace has no image branch, only {tuple(self.adapters)}.")
        tokens, maps = self._embed_images(images_B3HW)
        outputs = self.layers(tokens, self.out_indices)
        if self.out_type == "avg_featmap":
            outputs = [x[:, 1:].mean(1) for x in outputs]
        elif self.out_type == "cls_token":
            outputs = [x[:, 0] for x in outputs]
        self._normalise_last(outputs)
        if self.out_type != "featmap":
            return tuple(outputs)
        return (*maps, *(x[:, 1:].transpose(1, 2).unflatten(2, tokens.grid) for x in outputs))

    def _embed_images(self, images_B3HW: Tensor) -> tuple[Tokens, list[Tensor]]:
        """Tokens, and the maps of the stem that `forward` returns."""
        adapter = self.adapters["image"]
        embed = adapter.with_maps if self.stem_maps else adapter
        # The stem would store about as much as all checkpointed blocks do.
        out = (
            activation_checkpoint(embed, images_B3HW) if self.layers.with_cp else embed(images_B3HW)
        )
        return out if self.stem_maps else (out, [])

    def _normalise_last(self, outputs: list[Tensor]) -> None:
        """Apply the final norm to the output of the last block, in place in the list."""
        if "image" in self.norms and self.arch.depth - 1 in self.out_indices:
            outputs[-1] = self.norms["image"](outputs[-1])


def as_arguments(value: Tensor | tuple[Any, ...] | None) -> tuple[Any, ...]:
    """An input, or positions, as the arguments of the adapter."""
    return value if isinstance(value, tuple) else (value,)


def _resolve_indices(indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Block indices counted from 0, ascending."""
    given = [indices] if isinstance(indices, int) else list(indices)
    resolved = [i + depth if i < 0 else i for i in given]
    if (
        not resolved
        or sorted(set(resolved)) != resolved
        or not 0 <= resolved[-1] < depth
        or resolved[0] < 0
    ):
        raise ValueError(
            f"out_indices are {given}; expected ascending block indices from 0 to {depth - 1}."
        )
    return tuple(resolved)
