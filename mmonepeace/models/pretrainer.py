"""Pretraining: cross-modal contrast, and denoising contrast of masked tokens.

Shapes: B batch, L tokens (CLS first), P kept tokens, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmonepeace import checkpoint
from mmonepeace.layers.decoder import Decoder, insert_mask_tokens
from mmonepeace.layers.tokens import Tokens
from mmonepeace.models.losses import GradCache, check_smoothing, denoising_contrastive
from mmonepeace.models.onepeace import as_arguments
from mmonepeace.models.retriever import LOGIT_SCALE_INIT, OnePeaceRetriever
from mmonepeace.registry import MODELS
from mmonepeace.spec import DECODER_ARCH, DECODER_POSITIONS, Arch, get_arch


@dataclass(frozen=True)
class Stage:
    """What a stage of pretraining does with a pair of modalities.

    Attributes:
        pair: the modalities; text first.
        unimodal_students: those whose masked input also has a student without the other modality.
        joint_teacher: that student learns from the joint encoding; otherwise from the unimodal
            encoding of the unmasked input.
        frozen: train only what belongs to the second modality, the decoder and the logit scale.
        weights: of the denoising losses, by modality of a unimodal student, and "joint" for both.
    """

    pair: tuple[str, str]
    unimodal_students: tuple[str, ...]
    joint_teacher: bool
    frozen: bool
    weights: Mapping[str, float]


# Source: the official criteria. The audio student learns from the joint teacher in the code; the
# paper describes the unimodal one.
STAGES = {
    "vl": Stage(
        pair=("text", "image"),
        unimodal_students=("text", "image"),
        joint_teacher=False,
        frozen=False,
        weights={"text": 0.5, "image": 1.0, "joint": 0.5},
    ),
    "al": Stage(
        pair=("text", "audio"),
        unimodal_students=("audio",),
        joint_teacher=True,
        frozen=True,
        weights={"audio": 1.0, "joint": 0.5},
    ),
}


@MODELS.register_module()
class OnePeacePretrainer(OnePeaceRetriever):
    """A retriever with a light decoder, trained on pairs.

    Each step encodes unmasked inputs of each modality (contrast, and targets without gradient),
    both jointly (targets), and masked inputs of each modality and of both, whose masked tokens the
    decoder must distinguish from all others of the batch.

    Args:
        backbone: config of `OnePeace`; its modalities must include those of the stage.
        stage: "vl", image and text; "al", audio and text, where everything that stage one trained
            is frozen.
        decoder: widths of the decoder, see `spec.Arch`.
        decoder_layer_scale_init: see `layers.decoder.Decoder`.
        learn_words: in the second stage, train the embeddings of text tokens too. The released recipe
            does not; but a small first stage has the same embedding for all names that it has not
            seen, so that audio could not be distinguished by them. Other token embeddings change
            by weight decay only.
        learn_all: in the second stage, train all that both modalities use, as must be without a
            first stage; `PretrainRunner` turns it off where there is one.
        denoising_weight: weight of all denoising losses. In short runs from scratch they can
            dominate the contrastive loss. With 0 they are not computed: `keeps` are not needed.
        denoising_scale: logit scale of the denoising loss.
        denoising_smoothing: its label smoothing.
        mask_padding: see `layers.decoder.Decoder`.
        max_logits: entries of the denoising logits in memory at once.
        gather_tokens: contrast masked tokens with those of all processes, so that the losses are
            those of one process; else, as officially, with those of the own process.
        kwargs: see `OnePeaceRetriever`.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        stage: Literal["vl", "al"] = "vl",
        decoder: str | dict[str, Any] | Arch = DECODER_ARCH,
        decoder_layer_scale_init: float | None = None,
        learn_words: bool = False,
        learn_all: bool = False,
        denoising_weight: float = 1.0,
        denoising_scale: float = 2.5,
        denoising_smoothing: float = 0.1,
        mask_padding: bool = True,
        max_logits: int = 2**26,
        gather_tokens: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if stage not in STAGES:
            raise ValueError(f"stage is {stage!r}; choose one of {', '.join(STAGES)}.")
        check_smoothing("denoising_smoothing", denoising_smoothing)
        if not denoising_weight >= 0 or not denoising_scale > 0 or max_logits < 1:
            raise ValueError(
                f"denoising_weight is {denoising_weight}, denoising_scale {denoising_scale} and max_logits "
                f"{max_logits}; expected at least 0, above 0, and 1 or more."
            )
        self.stage = STAGES[stage]
        adapters = self.backbone.adapters
        missing = [name for name in self.stage.pair if name not in adapters]
        if missing:
            raise ValueError(
                f"stage {stage!r} needs {' and '.join(self.stage.pair)}, the backbone has "
                f"{', '.join(adapters)}. Add them to its modalities."
            )
        if denoising_weight and getattr(adapters[self.stage.pair[1]], "frame_stride", 1) > 1:
            raise ValueError(
                "denoising needs a token for each frame of audio. Set frame_stride=1 of the audio "
                "modality, or denoising_weight=0."
            )
        arch, dim = get_arch(decoder), self.backbone.arch.embed_dim
        width = arch.embed_dim
        rows = {n: DECODER_POSITIONS.get(n) or len(adapters[n].pos_embed) for n in self.stage.pair}
        # The official code checkpoints the blocks of both encoder and decoder, or of neither.
        with_cp = self.backbone.layers.with_cp
        self.decoder = Decoder(arch, rows, decoder_layer_scale_init, mask_padding, with_cp)
        self.decoder_embeds = nn.ModuleDict({n: nn.Linear(dim, width) for n in rows})
        self.mask_tokens = nn.ParameterDict({n: torch.zeros(1, width) for n in rows})
        self.mask_heads = nn.ModuleDict({n: nn.Linear(width, dim) for n in rows})
        for module in (self.decoder, self.decoder_embeds, self.mask_tokens, self.mask_heads):
            self.reset_parameters(module)
        self.denoising_weight = denoising_weight
        self.denoising: dict[str, Any] = {
            "scale": denoising_scale,
            "label_smoothing": denoising_smoothing,
            "max_logits": max_logits,
            "gather_tokens": gather_tokens,
        }
        self.learn_words = learn_words
        self.learn_all = learn_all
        if self.stage.frozen:
            if self.backbone.lora:
                raise ValueError(
                    f"stage {stage!r} chooses itself what is trained, which lora would contradict. "
                    "Leave backbone.lora out, or train it in a recipe of retrieval."
                )
            self._freeze()
        if not denoising_weight:
            for module in (self.decoder, self.decoder_embeds, self.mask_tokens, self.mask_heads):
                module.requires_grad_(False)

    def _freeze(self) -> None:
        new = self.stage.pair[1]
        others = set(self.backbone.adapters) - set(self.stage.pair)
        for name, parameter in self.named_parameters():
            parts = name.split(".")
            if not name.startswith(("decoder", "mask_", "logit_scale")):
                learns = new in parts or (self.learn_all and others.isdisjoint(parts))
                parameter.requires_grad_(learns)
        if self.learn_words:
            self.backbone.adapters["text"].embed_tokens.requires_grad_(True)

    @property
    def is_frozen(self) -> bool:
        """Whether all that a first stage trains is frozen."""
        return self.stage.frozen and not self.learn_all

    def load_stage_one(self, path: str) -> checkpoint.LoadReport:
        """Start the second stage from a checkpoint of the first, official or ours.

        All but the parameters of the new modality are loaded; the logit scale is reset.
        """
        new = self.stage.pair[1]
        names = (name.removeprefix("backbone.") for name in self.state_dict())
        report = self.load_checkpoint(path, [name for name in names if new in name.split(".")])
        with torch.no_grad():
            self.logit_scale.fill_(LOGIT_SCALE_INIT)
        return report

    def forward(
        self,
        inputs: Mapping[str, Any],
        data_samples: Sequence[Any] | None = None,
        mode: Literal["tensor", "predict", "loss", "contrast"] = "tensor",
        contrast: GradCache | None = None,
        keeps: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Any:
        """Losses of a step, or what a retriever gives.

        Args:
            inputs: modality -> input, see `OnePeace.embed`.
            data_samples: as for `OnePeaceRetriever`.
            mode: see `OnePeaceRetriever`.
            contrast: see `OnePeaceRetriever`; tokens are contrasted within these samples.
            keeps: for "loss": "alone" and "joint" -> modality -> unmasked positions, (B, P), or a tuple
                of what `Tokens.keep` takes.
        """
        if mode == "contrast":
            # In the order of the loss below, so that the same masks of drop path are drawn.
            inputs = {name: inputs[name] for name in self.stage.pair}
        if mode != "loss":
            return super().forward(inputs, data_samples, mode)
        stage, backbone = self.stage, self.backbone
        features: dict[str, Any] = {}
        complete: dict[str, Tokens] = {}
        unimodal: dict[str, Tensor] = {}
        for name in stage.pair:
            trains = not self.is_frozen or name == stage.pair[1] or self.learn_words
            with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
                features |= backbone.features({name: inputs[name]})
                complete[name] = backbone.to_tokens({name: features[name]})
                unimodal |= backbone.encode(complete[name], skip_padding=True)
        embeddings = self.project({name: x[:, 0] for name, x in unimodal.items()})
        results = self._contrast(embeddings, data_samples, contrast)
        if not self.denoising_weight:
            return results
        with torch.no_grad():
            pair = Tokens.join([complete[name] for name in stage.pair])
            joint = backbone.encode(pair, skip_padding=True)
        views = [("alone", (name,)) for name in stage.unimodal_students] + [("joint", stage.pair)]
        masks: Any = keeps  # given for "loss"
        kept = [{name: masks[view][name] for name in names} for view, names in views]
        reconstructions = self.reconstruct(kept, features, complete)
        for (view, names), keep, students in zip(views, kept, reconstructions, strict=True):
            is_joint = view == "joint"
            teachers = joint if is_joint or stage.joint_teacher else unimodal
            for name in names:
                tokens = complete[name]
                loss = denoising_contrastive(
                    students[name],
                    teachers[name].detach(),
                    _known(*as_arguments(keep[name])),
                    _known(tokens.pad_BL, tokens.known_pad_BL),
                    **self.denoising,
                )
                key = f"{'joint_' if is_joint else ''}{name}"
                weight = self.denoising_weight * stage.weights["joint" if is_joint else name]
                results[f"loss_denoise_{key}"] = weight * loss
        return results

    def reconstruct(
        self,
        keeps: Sequence[Mapping[str, Any]],
        features: Mapping[str, Any],
        complete: Mapping[str, Tokens] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Encode kept tokens and decode complete sequences: modality -> (B, L, D) for each view.

        Args:
            keeps: for each view, modality -> positions kept; its modalities are encoded jointly.
            features: of all these modalities, from `OnePeace.features`.
            complete: modality -> tokens of the unmasked input, if they are known already.
        """
        backbone = self.backbone
        if complete is None:
            complete = {name: backbone.to_tokens({name: x}) for name, x in features.items()}
        views = [backbone.to_tokens({n: features[n] for n in keep}, keep) for keep in keeps]
        restored = [
            {
                name: insert_mask_tokens(
                    self.decoder_embeds[name](x),
                    as_arguments(keep[name])[0],
                    complete[name].x_BLD.shape[1],
                    self.mask_tokens[name],
                )
                for name, x in kept.items()
            }
            for keep, kept in zip(keeps, backbone.encode_views(views), strict=True)
        ]
        return [
            {name: self.mask_heads[name](x) for name, x in decoded.items()}
            for decoded in self.decoder(restored, complete)
        ]


def _known(x: Tensor | None, on_cpu: np.ndarray | None = None) -> Tensor | np.ndarray | None:
    """Positions or padding where the CPU knows them, else as a GPU does."""
    return x if on_cpu is None else on_cpu
