"""Teachers of distillation: frozen models that say what the features of an input should be.

They are no modules of the student's model: not trained, not sharded, not in checkpoints, always in
eval mode. Shapes: B samples, L tokens (CLS first), D width.
"""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from mmonepeace import checkpoint
from mmonepeace.checkpoint import Conversion
from mmonepeace.layers.resampling import Grid
from mmonepeace.models.onepeace import OnePeace, as_arguments
from mmonepeace.registry import MODELS
from mmonepeace.spec import CLIP_MEAN, CLIP_STD

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TeacherFeatures(NamedTuple):
    """Tokens (B, L, D), CLS first, and rows and columns of the others, if they are patches."""

    x_BLD: Tensor
    grid: Grid | None


class Teacher:
    """A frozen model; on the meta device, with its weights unread, until it is first used.

    Args:
        net: on the meta device, or with its weights already.
        embed_dim: width of its features.
        modalities: that it knows.
        dtype: "float32" or "bfloat16", of its weights and of what it computes, whatever the student's
            precision is.

    Raises:
        ValueError: for another dtype.
    """

    def __init__(
        self, net: nn.Module, embed_dim: int, modalities: Sequence[str], dtype: str
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype is {dtype!r}; choose {' or '.join(_DTYPES)}.")
        self.dtype = _DTYPES[dtype]
        self.embed_dim, self.modalities = embed_dim, tuple(modalities)
        self.net = self._freeze(net)
        self._is_read = False

    def load(self) -> nn.Module:
        """The model with its weights, on the CPU."""
        raise NotImplementedError

    def features(self, name: str, value: Any) -> TeacherFeatures:
        """Features of the inputs of a modality, on the device of the model."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Read the weights, if they are not there yet; in estimates there are none to read."""
        if self._is_read or isinstance(next(self.net.parameters()), FakeTensor):
            return
        # Whoever builds the student may have chosen another device, and has seeded this step.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self.net = self._freeze(self.load())
        self._is_read = True

    @torch.no_grad()
    def __call__(self, name: str, value: Any) -> TeacherFeatures:
        """Features of the inputs of a modality, float32; see `OnePeace.embed` for `value`."""
        self.prepare()
        arguments = as_arguments(value)
        device = arguments[0].device
        if next(self.net.parameters()).device != device:
            self.net = self.net.to(device)
        arguments = tuple(
            x.to(self.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x
            for x in arguments
        )
        with torch.autocast(device.type, enabled=False):
            x_BLD, grid = self.features(name, arguments if len(arguments) > 1 else arguments[0])
        return TeacherFeatures(x_BLD.float(), grid)

    def _freeze(self, net: nn.Module) -> nn.Module:
        return net.to(self.dtype).requires_grad_(False).eval()


@MODELS.register_module()
class OnePeaceTeacher(Teacher):
    """The encoder of a checkpoint of ours or of an official one, any size and branch.

    Args:
        checkpoint: file of any layout; None where all features are cached.
        backbone: options of `OnePeace`; None reads them off the weights, which then must be there
            when the model is built.
        modalities: the branches that are used.
        dtype: see `Teacher`.

    Raises:
        ValueError: if neither is given, or the file lacks a branch.
        mmonepeace.checkpoint.CheckpointError: if the file cannot be used.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        backbone: dict[str, Any] | None = None,
        modalities: Sequence[str] = ("image",),
        dtype: str = "float32",
    ) -> None:
        if checkpoint is None and backbone is None:
            raise ValueError(
                "teacher has neither checkpoint nor backbone. Name the file of the teacher: "
                "--checkpoint PATH"
            )
        self.path = checkpoint
        self.converted: Conversion | None = None
        if backbone is None:
            backbone = self._infer(modalities)
        else:
            backbone = {"modalities": modalities, **backbone}
        with torch.device("meta"):
            net = OnePeace(**{k: v for k, v in backbone.items() if k != "type"})
        super().__init__(net, net.arch.embed_dim, tuple(net.adapters), dtype)

    def _infer(self, modalities: Sequence[str]) -> dict[str, Any]:
        with torch.device("cpu"):  # also while a model is built without memory
            self.converted = converted = checkpoint.read_own(str(self.path))
        with checkpoint.prefix_errors(str(self.path)):
            config = checkpoint.infer_config(converted.weights, converted.meta)
        if lacking := [name for name in modalities if name not in config["modalities"]]:
            raise ValueError(
                f"teacher.modalities has {', '.join(lacking)}, but {self.path} has "
                f"{', '.join(config['modalities'])}. Name some of these."
            )
        return {**config, "modalities": {name: config["modalities"][name] for name in modalities}}

    def load(self) -> nn.Module:
        """See `Teacher`."""
        if self.path is None:
            raise ValueError(
                "the teacher has no checkpoint, and the features of a sample are not cached. Name "
                "it: --checkpoint PATH"
            )
        net: Any = self.net
        checkpoint.load_checkpoint(net, self.path, net.allow_missing, self.converted)
        self.converted = None
        return net

    def features(self, name: str, value: Any) -> TeacherFeatures:
        """See `Teacher`."""
        net: Any = self.net
        tokens = net.embed({name: value})
        return TeacherFeatures(net.encode(tokens, skip_padding=True)[name], tokens.grid)


@MODELS.register_module()
class TimmTeacher(Teacher):
    """A vision transformer of timm, its `forward_features`; registers are left out.

    A model without CLS token has the mean of its patches in its place. Images come normalised for
    ONE-PEACE and are normalised for the model; those that do not consist of whole patches are resized
    to the next larger size that does, and those of a model for one size to this size.

    Args:
        name: of `timm.create_model`.
        pretrained: use the weights that timm knows, which it downloads once; else random ones.
        file: weights of that model, instead of a download.
        size: side in pixels to which images are resized; None keeps theirs.
        dtype: see `Teacher`.

    Raises:
        ValueError: for a name that timm does not know or has no weights of, or a model that gives no
            sequence of tokens.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        file: str | None = None,
        size: int | None = None,
        dtype: str = "float32",
    ) -> None:
        import timm

        self.name, self.pretrained, self.file = name, pretrained or file is not None, file
        if ":" not in name and not timm.is_model(name):
            near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), 3)
            guess = f"Did you mean {' or '.join(near)}?" if near else "timm.list_models() has all."
            raise ValueError(f"teacher.name is {name!r}, which timm does not know. {guess}")
        self._dynamic = True
        net: Any
        try:
            with torch.device("meta"):
                net = self._create(pretrained=False)
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error):
                raise
            net = self._create(pretrained=False)
        facts = net.pretrained_cfg
        if self.pretrained and not (file or facts.get("hf_hub_id") or facts.get("url")):
            raise ValueError(
                f"teacher.name is {name!r}, of which timm has no weights. Name another model, or a "
                "file of its weights: teacher.file=PATH"
            )
        patches: Any = getattr(net, "patch_embed", None)
        if not hasattr(patches, "patch_size") or not hasattr(net, "num_prefix_tokens"):
            raise ValueError(
                f"teacher.name is {name!r}, which gives no sequence of patches. Name a vision "
                "transformer, such as vit_base_patch16_dinov3."
            )
        self.patch_size = tuple(patches.patch_size)
        self.size = size if size or self._dynamic else facts["input_size"][-1]
        self.prefix = int(net.num_prefix_tokens)
        self.mean, self.std = facts["mean"], facts["std"]
        super().__init__(net, int(net.num_features), ("image",), dtype)

    def _create(self, pretrained: bool) -> nn.Module:
        import timm

        overlay = {"file": self.file} if self.file else None
        options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
        options["pretrained_cfg_overlay"] = overlay
        if self._dynamic:
            try:
                return timm.create_model(self.name, dynamic_img_size=True, **options)
            except TypeError:  # of a model for one size
                self._dynamic = False
        return timm.create_model(self.name, **options)

    def load(self) -> nn.Module:
        """See `Teacher`."""
        try:
            return self._create(self.pretrained)
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"teacher.name is {self.name!r}, whose weights cannot be read: {reason}. Get them where "
                "there is a network, and name the file: teacher.file=PATH"
            ) from error

    def features(self, name: str, value: Any) -> TeacherFeatures:
        """See `Teacher`."""
        net: Any = self.net
        own, ours = (
            [torch.tensor(x, device=value.device, dtype=value.dtype).view(3, 1, 1) for x in pair]
            for pair in ((self.mean, self.std), (CLIP_MEAN, CLIP_STD))
        )
        sides = [self.size, self.size] if self.size else value.shape[-2:]
        height, width = (-(-a // b) * b for a, b in zip(sides, self.patch_size, strict=True))
        if (height, width) != tuple(value.shape[-2:]):
            resized = nn.functional.interpolate(
                value.float(), (height, width), mode="bicubic", antialias=True
            )
            value = resized.to(value.dtype)
        x_BLD = net.forward_features((value * ours[1] + ours[0] - own[0]) / own[1])
        patches_BLD = x_BLD[:, self.prefix :]
        has_cls = self.prefix and getattr(net, "cls_token", None) is not None
        cls_B1D = x_BLD[:, :1] if has_cls else patches_BLD.mean(1, keepdim=True)
        grid = height // self.patch_size[0], width // self.patch_size[1]
        return TeacherFeatures(torch.cat([cls_B1D, patches_BLD], 1), grid)
