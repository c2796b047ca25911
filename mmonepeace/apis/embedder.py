"""Embeddings of images, texts and audio clips, from a checkpoint alone.

Shapes: N items, Q queries, B pieces in a batch, L tokens (CLS first), T without CLS, D width,
h x w patches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from mmonepeace import checkpoint
from mmonepeace.apis.item_reader import BRANCHES, AudioLike, ItemReader, as_rows, model_inputs
from mmonepeace.apis.loading import (
    build_retriever,
    check_vocabulary,
    find_tokenizer,
    load_retriever,
    to_dtype,
)
from mmonepeace.apis.sharing import OPTIONS, Shared
from mmonepeace.apis.vector_search import Embeddings, combine, search, similarity
from mmonepeace.datasets import image_io
from mmonepeace.datasets.tokenizer import Tokenizer
from mmonepeace.datasets.video_io import VideoInput
from mmonepeace.spec import MAX_AUDIO_SECONDS, PATCH_SIZE

if TYPE_CHECKING:
    from mmonepeace.models import OnePeaceRetriever

Pooling = Literal["cls", "mean", "tokens"]


class Embedder(Shared):
    """Images, texts and audio clips as vectors of unit length in one space.

    Up to rounding, the result of an item does not depend on the other items of a call.

    Args:
        model: on its device.
        tokenizer: needed for text only; its ids must be those of the model.
        image_size: side of the square that images are resized to, in pixels; None takes that of
            the model's position embeddings.
        keep_ratio: keep the aspect ratio, with about as many pixels.
        fast_jpeg: decode large JPEG files at reduced size, which changes embeddings a little.
        alpha: what becomes of transparency: "drop", as in training, shows the colours that
            transparent pixels have, often black; a colour, such as "white", is put behind them.
        batch_size: pieces in one forward pass.
        window_seconds: longer audio clips are cut into windows of this length, at most 20.48; None
            takes that of the clips which the model was trained on, 15 for the released ones.
        hop_seconds: from the start of one window to that of the next; None is half a window.
        output: type of embeddings: float32 "numpy" arrays, or "torch" tensors on the CPU.
        progress: show a progress bar; None shows one for more than four batches.
        fingerprint: identifies the weights; None computes it, see `checkpoint.fingerprint_of`.
    """

    stored = tuple(OPTIONS)

    def __init__(
        self,
        model: OnePeaceRetriever,
        tokenizer: Tokenizer | None = None,
        *,
        image_size: int | None = None,
        keep_ratio: bool = False,
        fast_jpeg: bool = False,
        alpha: str = "drop",
        batch_size: int = 32,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
        output: Literal["numpy", "torch"] = "numpy",
        progress: bool | None = None,
        fingerprint: str | None = None,
    ) -> None:
        if output not in ("numpy", "torch"):
            raise ValueError(f"output is {output!r}; choose 'numpy' or 'torch'.")
        self.model = model.eval()
        self.batch_size = batch_size
        self.output = output
        self.progress = progress
        self.fingerprint = fingerprint or checkpoint.fingerprint_of(model.state_dict())
        adapters = model.backbone.adapters
        if "image" in adapters:
            image_size = image_size or PATCH_SIZE * adapters["image"].rpb.sides[0]
        clip = adapters["audio"].clip_seconds if "audio" in adapters else MAX_AUDIO_SECONDS
        window_seconds = window_seconds or clip
        check_vocabulary(model, tokenizer)
        self.reader = ItemReader(
            tokenizer=tokenizer,
            image_size=image_size or 0,
            keep_ratio=keep_ratio,
            fast_jpeg=fast_jpeg,
            alpha=image_io.check_alpha(alpha),
            windows=(window_seconds, hop_seconds or window_seconds / 2),
            batch_size=batch_size,
            # With the official padding of audio, results depend on it.
            equal_length_audio=model.backbone.metadata().get("audio_padding") == "compat",
        )

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "fp32",
        tokenizer: str | Path | Tokenizer | None = None,
        projections: bool = True,
        compiled: bool = False,
        adapter: str | Path | None = None,
        **options: Any,
    ) -> Embedder:
        """Build the model that a file describes.

        Args:
            path: a checkpoint of any layout, whose sizes and branches are inferred; or a config
                (.py) of an `OnePeaceRetriever` with its checkpoint in `init_cfg` or `load_from`.
            device: by default a GPU if there is one.
            dtype: of weights and activations: "fp32", "bf16", "fp16", or a torch dtype.
            tokenizer: file or object; by default `tokenizer.json` beside the checkpoint.
            projections: False also takes a file without projections, for `encode_features` alone.
            compiled: compile the blocks when they first run, for GPUs.
            adapter: folder of LoRA that is merged into the checkpoint, see `checkpoint.read_lora`.
            options: see `Embedder`.

        Raises:
            CheckpointError: if the file cannot be used, or has no projections.
            ValueError: for an unknown dtype.
        """
        dtype = to_dtype(dtype)
        model, path = load_retriever(
            Path(path), projections, None if adapter is None else Path(adapter)
        )
        tokenizer = find_tokenizer(tokenizer, path)
        options.setdefault("fingerprint", checkpoint.fingerprint_of(model.state_dict()))
        if compiled:
            model.backbone.layers.compile_blocks()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(device, dtype), tokenizer, **options)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        compiled: bool = False,
        **options: Any,
    ) -> Self:
        """See `Shared.from_pretrained`; for `compiled` see `from_checkpoint`."""
        embedder = super().from_pretrained(name, device, dtype, **options)
        if compiled:
            embedder.model.backbone.layers.compile_blocks()
        return embedder

    @classmethod
    def _build(cls, saved: checkpoint.Saved) -> tuple[OnePeaceRetriever, dict[str, Any]]:
        model = build_retriever(saved.converted, saved.path, projections=False, saved=saved)
        return model, {"fingerprint": checkpoint.fingerprint_of(model.state_dict())}

    similarity = staticmethod(similarity)
    combine = staticmethod(combine)
    search = staticmethod(search)

    def encode(
        self, modality: str, items: Iterable[Any], errors: dict[int, str] | None = None
    ) -> Embeddings:
        """Embed items of the named modality, as `encode_image` and its siblings do."""
        return self._encode({modality: items}, errors)

    def encode_image(
        self, images: Iterable[image_io.ImageInput], errors: dict[int, str] | None = None
    ) -> Embeddings:
        """Embed images.

        Args:
            images: paths, PIL images, arrays (H, W, 3) or tensors (3, H, W) of uint8 or of floats
                in 0..1; any sizes.
            errors: takes index -> reason for items that cannot be read, whose rows are NaN. None
                raises at the first such item.

        Returns:
            (N, D) float32 of unit length.

        Raises:
            ValueError: if an image cannot be read, or the model has no image branch.
        """
        return self.encode("image", images, errors)

    def encode_text(self, texts: Iterable[str], errors: dict[int, str] | None = None) -> Embeddings:
        """Embed texts, with errors and results as in `encode_image`.

        Case is ignored, and texts are cut to 70 tokens. A ValueError says if there is no tokenizer.
        """
        return self.encode("text", texts, errors)

    def encode_audio(
        self, clips: Iterable[AudioLike], errors: dict[int, str] | None = None
    ) -> Embeddings:
        """Embed audio clips of any length, with errors and results as in `encode_image`.

        Clips are paths, bytes of files, or pairs of samples (S,) or (S, channels) and their rate in Hz. One longer
        than a window is cut into overlapping windows, the last of which ends with the clip; its
        embedding is the mean of theirs, scaled to unit length.
        """
        return self.encode("audio", clips, errors)

    def encode_video(
        self, videos: Iterable[VideoInput], errors: dict[int, str] | None = None
    ) -> Embeddings:
        """Embed videos: the mean of their frames' embeddings, scaled to unit length.

        `VIDEO_FRAMES` of them, evenly over the video (see `video_io.open_video`), are embedded as images:
        what is seen counts, not how it moves. Errors and results are as in `encode_image`.
        """
        return self.encode("video", videos, errors)

    def encode_joint(
        self, errors: dict[int, str] | None = None, **modalities: Iterable[Any]
    ) -> Embeddings:
        """Embed items of several modalities that attend to each other.

        The mean of the projected CLS of all modalities, scaled to unit length. The released weights
        were trained with such joint encodings, but not to compare them by cosine: for search,
        `combine` of separate embeddings is what the paper does.

        Modalities are two or more of text, image and audio, all of one length; items, errors and
        results are as in their own methods. Of a long audio clip, the first window is taken.
        """
        return self._encode(modalities, errors)

    def encode_features(
        self,
        modality: str,
        items: Iterable[Any],
        pooling: Pooling = "cls",
        errors: dict[int, str] | None = None,
    ) -> list[Tensor | None]:
        """Output of the encoder, after its final norm if it has one, without projection.

        Args:
            modality: text, image or audio.
            items: as the method of the modality takes them.
            pooling: "cls" takes the CLS token, "mean" the mean of all other tokens, "tokens" all
                of these: patches, frames, subwords. Of a long audio clip, "cls" and "mean" are the
                mean over its windows, "tokens" are those of all windows, concatenated.
            errors: as in `encode_image`. An unknown pooling also is a ValueError.

        Returns:
            for each item (D,), or (T, D) of "tokens", float32 on the CPU; None for items that
            cannot be read.
        """
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling is {pooling!r}; choose one of {get_args(Pooling)}.")
        pieces = defaultdict(list)
        rows = self._rows({modality: items})
        for owners, inputs in self.reader.batches(rows, errors, self.progress):
            for owner, piece in zip(owners, self._pool(inputs, pooling), strict=True):
                pieces[owner].append(piece)
        join = torch.cat if pooling == "tokens" else lambda windows: torch.stack(windows).mean(0)
        return [join(pieces[i]) if i in pieces else None for i in range(len(rows))]

    def heat_maps(self, image: image_io.ImageInput, queries: Embeddings) -> Embeddings:
        """(Q, H, W) cosines of each position in an image with queries (Q, D) of any modality.

        The image is one of those that `encode_image` takes. Its patches are projected after it is
        resized to about `image_size` squared pixels, with its aspect ratio; maps have its own size.
        """
        rgb = image_io.to_rgb(image, alpha=self.reader.alpha)
        resized = image_io.resize(rgb, self.reader.image_size, keep_ratio=True)
        pixels = self._batch({"image": [image_io.to_tensor(resized)]})
        with torch.inference_mode():
            _, patches_1hwD = self.model.embed_patches(pixels["image"])
            maps = patches_1hwD @ torch.as_tensor(queries).to(patches_1hwD).t()
            maps = maps.permute(0, 3, 1, 2)
            maps = F.interpolate(maps, (rgb.height, rgb.width), mode="bicubic")
        return self._to_output(maps[0])

    def _encode(
        self, modalities: Mapping[str, Iterable[Any]], errors: dict[int, str] | None
    ) -> Embeddings:
        rows = self._rows(modalities)
        if not {BRANCHES.get(x, x) for x in modalities} <= set(self.model.projections):
            raise ValueError(
                "the model has no projections, so it gives no embeddings. Use a checkpoint of the "
                "pretrained or a retrieval model, or features that need none: cls, mean, tokens."
            )
        sums = torch.zeros(len(rows), self.model.backbone.arch.embed_dim)
        failed = torch.ones(len(rows), dtype=torch.bool)
        for owners, inputs in self.reader.batches(rows, errors, self.progress):
            sums.index_add_(0, torch.tensor(owners), self._forward(inputs).cpu())
            failed[owners] = False
        return self._to_output(F.normalize(sums, dim=1).masked_fill(failed[:, None], torch.nan))

    def _rows(self, modalities: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
        """Modality -> value, for each item."""
        known = tuple(self.model.backbone.adapters)
        for name in modalities:
            if BRANCHES.get(name, name) not in known:
                raise ValueError(f"the model has no {name} branch, only {known}.")
        return as_rows(modalities)

    def _batch(self, inputs: Mapping[str, list[Tensor]]) -> dict[str, Any]:
        """Inputs of the model, on its device, in its dtype."""
        return model_inputs(self.model.data_preprocessor, inputs, self.model.logit_scale)

    @torch.inference_mode()
    def _forward(self, inputs: Mapping[str, list[Tensor]]) -> Tensor:
        """(B, D) of unit length."""
        batch = self._batch(inputs)
        if len(batch) == 1:
            return next(iter(self.model(batch).values()))
        features = self.model.backbone.encode(self.model.backbone.embed(batch))
        projected = self.model.project({name: x[:, 0] for name, x in features.items()})
        return F.normalize(torch.stack(list(projected.values())).mean(0), dim=1)

    @torch.inference_mode()
    def _pool(self, inputs: Mapping[str, list[Tensor]], pooling: Pooling) -> list[Tensor]:
        """(D,) of each piece, or its real tokens (T, D)."""
        tokens = self.model.backbone.embed(self._batch(inputs))
        (x_BLD,) = self.model.backbone.encode(tokens, skip_padding=True).values()
        if pooling == "cls":
            return list(x_BLD[:, 0].float().cpu())
        x_BTD = x_BLD[:, 1:].float()
        pad_BL = x_BLD.new_zeros(x_BLD.shape[:2], dtype=torch.bool)
        pad_BT = (pad_BL if tokens.pad_BL is None else tokens.pad_BL)[:, 1:]
        if pooling == "mean":
            total = x_BTD.masked_fill(pad_BT[..., None], 0).sum(1)
            return list((total / (~pad_BT).sum(1, keepdim=True)).cpu())
        return [x_TD[~pad_T] for x_TD, pad_T in zip(x_BTD.cpu(), pad_BT.cpu(), strict=True)]

    def _to_output(self, result: Tensor) -> Embeddings:
        result = result.float().cpu()
        return result.numpy() if self.output == "numpy" else result
