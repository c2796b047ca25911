"""The ONE-PEACE backbone.

Shapes: B batch, L tokens (CLS first), D width.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn

from mmonepeace import checkpoint
from mmonepeace.layers.adapters import ADAPTERS
from mmonepeace.layers.encoder import FusionEncoder
from mmonepeace.layers.tokens import Tokens
from mmonepeace.registry import MODELS
from mmonepeace.spec import (
    INIT_STD,
    LAYER_NORM_EPS,
    LAYER_SCALE_INIT,
    PATCH_SIZE,
    PRETRAIN_IMG_SIZE,
    Arch,
    get_arch,
    patch_grid,
)


@MMENGINE_MODELS.register_module()  # `OnePeace` from any MM library, once imported
@MODELS.register_module()
class OnePeace(BaseModule):
    """One Transformer with shared attention and one FFN per modality.

    As a backbone it takes images of any height and width and returns feature maps of stride 16.
    Positions and relative position bias (RPB) are kept for one square grid and follow every other
    one by resampling, in each forward pass.

    Args:
        arch: "tiny", "small", "base", "large", "giant" (the released size), or a dict with
            embed_dim, depth, num_heads and ffn_dim.
        modalities: branches to build; the others cost nothing.
        img_size: side in pixels, a multiple of 16, of the square image whose grid the positions
            and RPB tables are kept for. Images of this size need no resampling; weights of
            another size are resampled when they are loaded.
        rpb: "shared", one table for all blocks (pretraining), or "per_block", decoupled tables
            (fine-tuning). A shared table in a checkpoint is copied to each block.
        out_indices: blocks whose maps are returned; negative ones count from the last.
        final_norm: end with the LayerNorm of each modality. The exported vision branch has none.
        drop_path_rate: of the last block, rising linearly from 0 at the first.
        layer_scale_init: initial LayerScale; None leaves it out. The released models began with
            1e-6; when training from scratch, 0.1 starts faster.
        frozen_stages: -1 trains everything, 0 freezes the adapters, k the first k blocks too.
        with_cp: activation checkpointing: less memory, a third more computation.
        init_cfg: `dict(type="Pretrained", checkpoint=PATH)` with a file of any official or own
            layout; its other modalities are left out.
    """

    def __init__(
        self,
        arch: str | dict[str, Any] | Arch = "giant",
        modalities: Sequence[str] = ("image",),
        img_size: int = PRETRAIN_IMG_SIZE,
        rpb: Literal["shared", "per_block"] = "shared",
        out_indices: int | Sequence[int] = -1,
        final_norm: bool = False,
        drop_path_rate: float = 0.0,
        layer_scale_init: float | None = LAYER_SCALE_INIT,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = get_arch(arch)
        if rpb not in ("shared", "per_block"):
            raise ValueError(f"rpb is {rpb!r}; choose 'shared' or 'per_block'.")
        unknown = sorted(set(modalities) - set(ADAPTERS))
        if unknown or not modalities or len(set(modalities)) < len(modalities):
            raise ValueError(
                f"modalities are {tuple(modalities)}; choose one or more of {tuple(ADAPTERS)}, "
                "each once."
            )
        if img_size < PATCH_SIZE or img_size % PATCH_SIZE:
            raise ValueError(
                f"img_size {img_size} is not a multiple of {PATCH_SIZE}. It only names the grid "
                "the tables are kept for: images of any size may come in."
            )
        depth = self.arch.depth
        if not -1 <= frozen_stages <= depth:
            raise ValueError(f"frozen_stages is {frozen_stages}, expected -1 to {depth}.")
        self.out_indices = _resolve_indices(out_indices, depth)
        self.frozen_stages = frozen_stages
        self.adapters = nn.ModuleDict(
            {
                name: ADAPTERS[name](
                    self.arch,
                    side=img_size // PATCH_SIZE,
                    num_tables=depth if rpb == "per_block" else 1,
                )
                for name in modalities
            }
        )
        self.layers = FusionEncoder(
            self.arch, modalities, drop_path_rate, layer_scale_init, with_cp
        )
        self.norms = nn.ModuleDict(
            {
                name: nn.LayerNorm(self.arch.embed_dim, LAYER_NORM_EPS)
                for name in modalities
                if final_norm
            }
        )
        self._reset_parameters()
        self._freeze()
        self._register_load_state_dict_pre_hook(self._fit_loaded)

    @torch.no_grad()
    def _reset_parameters(self) -> None:
        """Initialise as the official multimodal code does.

        Its truncated normal is cut at one sigma. Tables and type vectors start at zero.
        """
        for name, parameter in self.named_parameters():
            if "rpb." in name or name.endswith("type_embed"):
                continue
            if re.search(
                r"(cls_token|pos_embed|_proj\.weight|ffn\.\w+\.(gate|up|down)\.weight)$", name
            ):
                nn.init.trunc_normal_(parameter, std=INIT_STD, a=-INIT_STD, b=INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def init_weights(self) -> None:
        """Load the checkpoint of `init_cfg`, if there is one.

        Raises:
            mmonepeace.checkpoint.CheckpointError: if the file cannot be used or does not fit.
        """
        if self.init_cfg and not self.is_init:
            if self.init_cfg.get("type") != "Pretrained":
                raise ValueError(
                    f"init_cfg {self.init_cfg} is not supported; use dict(type='Pretrained', "
                    "checkpoint=PATH), or None for the official initialisation."
                )
            report = self.load_checkpoint(self.init_cfg["checkpoint"])
            print_log(f"{self.init_cfg['checkpoint']}:\n{report}", logger="current")
        self._is_init = True

    def load_checkpoint(
        self, path: str, allow_missing: Sequence[str] = ()
    ) -> checkpoint.LoadReport:
        """Load weights from a file of any official or own layout.

        Args:
            path: see `checkpoint.read`.
            allow_missing: beginnings of parameter names that the file may lack.

        Returns:
            what was missing, unused and resampled.

        Raises:
            mmonepeace.checkpoint.CheckpointError: if the file cannot be used, or lacks a
                parameter that is not allowed to be missing.
        """
        converted = checkpoint.read_own(path)
        weights, report = checkpoint.fit_state_dict(converted.weights, self.state_dict())
        report.unused += [
            key for key, name, why in converted.rows if not name and why != checkpoint.RECOMPUTED
        ]
        lacking = [key for key in report.missing if not key.startswith(tuple(allow_missing))]
        if lacking:
            raise checkpoint.CheckpointError(
                f"{path} does not fit {type(self).__name__}({self.arch}):\n{report}\n"
                f"{len(lacking)} parameters of the model are not in the file. Match arch and "
                "modalities to the checkpoint, or name what may be missing in allow_missing."
            )
        self.load_state_dict(weights, strict=False)
        return report

    def _fit_loaded(self, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Let every way of loading resample and decouple, as `load_checkpoint` does."""
        mine = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if "adapters.image.rpb.tables.0" not in mine:
            return
        target = {k: v for k, v in self.state_dict().items() if k.startswith("adapters.image.")}
        weights = {k: v for k, v in mine.items() if k in target or ".rpb.tables." in k}
        fitted, report = checkpoint.fit_state_dict(weights, target)
        state_dict.update({f"{prefix}{key}": fitted[key] for key in report.changed})

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        self.adapters.requires_grad_(False)
        for layer in list(self.layers)[: self.frozen_stages]:
            layer.requires_grad_(False)
            layer.eval()
        for adapter in self.adapters.values():
            # Decoupled tables belong to their blocks.
            for i, table in enumerate(adapter.rpb.tables):
                table.requires_grad_(len(adapter.rpb.tables) > 1 and i >= self.frozen_stages)
            adapter.eval()

    def train(self, mode: bool = True) -> "OnePeace":
        """Switch modes; frozen blocks stay in eval, without stochastic depth."""
        super().train(mode)
        self._freeze()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rate decay.

        Args:
            param_name: full name of the parameter.
            prefix: name of this backbone in the model, such as "backbone.".

        Returns:
            (depth, number of depths): 0 for adapters, i + 1 for block i and its own RPB table,
            the last for everything after the blocks.
        """
        name = param_name.removeprefix(prefix)
        num_depths = self.arch.depth + 2
        table = re.fullmatch(r"adapters\.\w+\.rpb\.tables\.(\d+)", name)
        decoupled = any(len(adapter.rpb.tables) > 1 for adapter in self.adapters.values())
        if table and decoupled:
            return int(table[1]) + 1, num_depths
        if name.startswith("adapters."):
            return 0, num_depths
        block = re.match(r"layers\.(\d+)\.", name)
        return (int(block[1]) + 1 if block else num_depths - 1), num_depths

    def encode(self, tokens: Tokens) -> dict[str, Tensor]:
        """Run all blocks and the final norms.

        Args:
            tokens: what an adapter returns.

        Returns:
            modality -> (B, L, D), CLS first.
        """
        x = self.layers(tokens, [self.arch.depth - 1])[0]
        parts = x.split(list(tokens.lengths.values()), dim=1)
        return {
            name: self.norms[name](part) if name in self.norms else part
            for name, part in zip(tokens.lengths, parts, strict=True)
        }

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images of any one size.

        Args:
            images_B3HW: (B, 3, H, W), RGB, normalised with `spec.IMAGE_MEAN`, `spec.IMAGE_STD`.

        Returns:
            one (B, D, ceil(H / 16), ceil(W / 16)) for each of `out_indices`.
        """
        if "image" not in self.adapters:
            raise ValueError(f"this OnePeace has no image branch, only {tuple(self.adapters)}.")
        grid = patch_grid(*images_B3HW.shape[-2:])
        outputs = self.layers(self.adapters["image"](images_B3HW), self.out_indices)
        last = self.arch.depth - 1
        if "image" in self.norms and last in self.out_indices:
            outputs[-1] = self.norms["image"](outputs[-1])
        return tuple(x[:, 1:].transpose(1, 2).unflatten(2, grid) for x in outputs)


def _resolve_indices(indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Block indices as rising numbers from 0."""
    given = [indices] if isinstance(indices, int) else list(indices)
    resolved = [i + depth if i < 0 else i for i in given]
    if (
        not resolved
        or sorted(set(resolved)) != resolved
        or not 0 <= resolved[-1] < depth
        or resolved[0] < 0
    ):
        raise ValueError(
            f"out_indices are {given}; expected rising block indices from 0 to {depth - 1}."
        )
    return tuple(resolved)
