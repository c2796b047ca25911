"""Parity rules of positions, the vision branch, its conversion and its learning rates."""

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mmonepeace import checkpoint
from mmonepeace.engine.optim import LayerDecayRule
from mmonepeace.layers.deformable import deform_attend
from mmonepeace.layers.relative_position_bias import rpb_index, rpb_index_1d
from mmonepeace.layers.resampling import resample_pos_embed, resample_rpb
from mmonepeace.models import (
    OnePeace,
    OnePeaceVideo,
    OnePeaceVideoClassifier,
    OnePeaceViTAdapter,
    OnePeaceViTDet,
)
from mmonepeace.spec import Arch
from tests.parity.case import Case, Tensors


def rpb_token_1d(case: Case) -> None:
    for bucket, facts in case.manifest["buckets"].items():
        index = rpb_index_1d(int(bucket), case.config["max_position"]).long()
        digest = hashlib.sha256(index.numpy().tobytes()).hexdigest()
        # The full name of the key gives the size of the table.
        (expected,) = (value for key, value in facts.items() if key.startswith("sha256_of_int64"))
        case.check_that(digest == expected, f"the table of {bucket} buckets differs")
    for name, expected in case.outputs.items():
        kind, bucket = name.split(".")
        if kind == "bucket_by_distance":
            # Row and column 1 have no CLS: they hold every distance.
            index = rpb_index_1d(int(bucket), case.config["max_position"])
            reach = case.config["max_position"] - 2
            middle = len(expected) // 2
            case.compare(name, index[1:, 1], expected[middle : middle + reach + 1])
            case.compare(name, index[1, 1:], expected[middle - reach : middle + 1].flip(0))
        else:
            side = len(expected)
            case.compare(name, rpb_index_1d(int(bucket), side), expected)


def rpb_image_2d(case: Case) -> None:
    for name, expected in case.outputs.items():
        side = int(name.split(".")[1])
        case.compare(name, rpb_index((side, side)), expected)


def _resized(case: Case, resize: Callable[[Tensor, int, int], Tensor]) -> None:
    """Outputs are named `<input>_to_<new>`, inputs end with their side."""
    for name, expected in case.outputs.items():
        source, new = name.rsplit("_to_", 1)
        case.compare(
            name, resize(case.inputs[source], int(source.split(".")[-1]), int(new)), expected
        )


def rpb_geometric_resize(case: Case) -> None:
    _resized(case, lambda table, old, new: resample_rpb(table, old, (new, new)))


def abs_pos_resize(case: Case) -> None:
    _resized(case, lambda table, _old, new: resample_pos_embed(table, (new, new)))


def _convert(weights: Tensors, target: str) -> Tensors:
    """Through files, as `tools/convert_checkpoint.py` does it."""
    from mmonepeace.checkpoint import convert_file

    with tempfile.TemporaryDirectory() as folder:
        source, middle = Path(folder) / "in.pth", Path(folder) / "middle.safetensors"
        torch.save({"model": weights}, source)
        convert_file(source, middle, "vision")
        if target == "vision":
            return checkpoint.read(middle)[0]
        final = Path(folder) / "out.pkl"
        convert_file(middle, final, "official-vision")
        return checkpoint.read(final)[0]


def vision_convert(case: Case) -> None:
    converted = _convert(case.weights(), "official-vision")
    expected = case.weights("converted_weights")
    case.check_that(
        set(converted) == set(expected),
        f"keys differ: {sorted(set(converted) ^ set(expected))[:5]}",
    )
    for key in set(converted) & set(expected):
        case.check_that(converted[key].dtype == expected[key].dtype, f"{key}: dtype differs")
        case.compare(key, converted[key], expected[key])


def _load_into(model: OnePeace, weights: Tensors) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        checkpoint.write(path, checkpoint.Conversion(weights, {"format": "mmonepeace"}))
        model.load_checkpoint(str(path))


def _arch(config: dict) -> Arch:
    return Arch(
        config["embed_dim"], config["layers"], config["attention_heads"], config["ffn_embed_dim"]
    )


def deform_attn(case: Case) -> None:
    """The core and its gradients."""
    grids = [tuple(grid) for grid in case.inputs["spatial_shapes"].tolist()]
    names = ("value", "sampling_locations", "attention_weights")
    with torch.enable_grad():
        value, points, weights = leaves = [case.inputs[n].clone().requires_grad_() for n in names]
        out = deform_attend(value, grids, points, weights)
        out.backward(case.inputs["grad_output"])
    gradients = {f"grad_{name}": leaf.grad for name, leaf in zip(names, leaves, strict=True)}
    case.compare_outputs(gradients | {"output": out.detach()})


def _load_official(model: OnePeace, weights: Tensors, prefix: str) -> None:
    """From a file as the official training of dense prediction writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "official.pth"
        torch.save({"state_dict": {f"{prefix}{k}": v for k, v in weights.items()}}, path)
        model.load_checkpoint(str(path))


def vision_seg_adapter(case: Case) -> None:
    config = case.config
    model = OnePeaceViTAdapter(
        _arch(config),
        img_size=16 * config["bucket_size"],
        rpb="per_block" if config["rp_bias"] else "shared",
        interaction_indexes=config["interaction_indexes"],
        spatial_dim=config["conv_inplane"],
        deform_heads=config["deform_num_heads"],
        deform_points=config["n_points"],
        deform_ratio=config["deform_ratio"],
        ffn_ratio=config["cffn_ratio"],
        norm_cfg={"type": "BN"},
    ).eval()
    _load_official(model, case.weights(), "backbone.")
    maps = model(case.inputs["images"])
    case.compare_outputs({f"f{level}": x for level, x in enumerate(maps, 1)})


def vision_det(case: Case) -> None:
    config = case.config
    windows = set(config["window_block_indexes"])
    model = OnePeaceViTDet(
        _arch(config),
        img_size=16 * config["bucket_size"],
        rpb="per_block" if config["rp_bias"] else "shared",
        window_size=config["window_size"],
        global_blocks=[i for i in range(config["layers"]) if i not in windows],
        decomposed=config["use_decomposed_rel_pos"],
    ).eval()
    _load_official(model, case.weights(), "backbone.net.")
    case.compare_outputs({"last_feat": model(case.inputs["images"])[-1]})


def vision_classify(case: Case) -> None:
    """As mmpretrain builds it: our backbone, a linear head; loaded from a converted file."""
    config = case.config
    model = nn.Module()
    model.backbone = OnePeace(
        _arch(config),
        img_size=16 * config["bucket_size"],
        rpb="per_block" if config["rp_bias"] else "shared",
        out_type="avg_featmap" if config["global_pool"] else "cls_token",
        final_norm=True,
    )
    model.head = nn.Module()
    model.head.fc = nn.Linear(config["embed_dim"], config["num_classes"])
    with tempfile.TemporaryDirectory() as folder:
        source, ours = Path(folder) / "official.pth", Path(folder) / "ours.pth"
        torch.save({"model": case.weights()}, source)
        checkpoint.convert_file(source, ours, "model")
        checkpoint.load_model(model, ours)
    features = model.backbone.eval()(case.inputs["images"])[-1]
    case.compare_outputs({"logits": model.head.fc(features)})


def vision_video(case: Case) -> None:
    """Twice: the backbone, and a classifier through a file with the released prefixes and back."""
    config = case.config
    options = dict(
        arch=_arch(config),
        num_frames=config["num_frames"],
        temporal_adapters=config["num_tadapter"],
        img_size=16 * config["bucket_size"],
        rpb="per_block" if config["rp_bias"] else "shared",
    )
    videos = case.inputs["video"].transpose(1, 2)  # officially, channels come before frames
    backbone = OnePeaceVideo(**options).eval()
    _load_official(backbone, case.weights(), "")
    case.compare_outputs({"features": backbone(videos).transpose(1, 2)[..., None, None]})

    head = {"weight": torch.randn(5, config["embed_dim"]), "bias": torch.randn(5)}
    released = {f"backbone.{key}": value for key, value in case.weights().items()}
    released |= {f"cls_head.fc_cls.{key}": value for key, value in head.items()}
    with tempfile.TemporaryDirectory() as folder:
        source, ours, back = (Path(folder) / name for name in ("in.pth", "ours.pth", "back.pth"))
        torch.save({"state_dict": released}, source)
        checkpoint.convert_file(source, ours, "model")
        checkpoint.convert_file(ours, back, "official-model")
        found, again = checkpoint.read_own(source), checkpoint.read(back)[0]
        inferred = checkpoint.infer_model(found.weights, found.meta)
        model = OnePeaceVideoClassifier(
            {**inferred["backbone"], "num_frames": config["num_frames"]}, inferred["head"]
        ).eval()
        checkpoint.load_model(model, ours)
    frames = model.backbone(videos)
    case.compare("released", frames.transpose(1, 2)[..., None, None], case.outputs["features"])
    logits = frames.mean(1) @ head["weight"].t() + head["bias"]
    case.compare("logits", model({"video": videos}), logits)
    case.check_that(
        set(again) == set(released), f"keys differ: {sorted(set(again) ^ set(released))[:5]}"
    )
    for key in set(again) & set(released):
        case.compare(key, again[key], released[key], atol=0.0)


def vision_seg_backbone(case: Case) -> None:
    """Twice: from the weights as loaded officially, and from the converted pretrained ones."""
    config = case.config
    arch = _arch(config)
    sources = [case.weights()]
    origin = re.search(r"case (\w+)", case.manifest.get("load_from", ""))
    if origin and (case.root / origin[1]).is_dir():
        sources.append(Case(case.root, origin[1]).weights())
    rpb = "per_block" if config.get("rp_bias", True) else "shared"
    for weights in sources:
        model = OnePeace(arch, img_size=16 * config["bucket_size"], rpb=rpb).eval()
        _load_into(model, _convert(weights, "vision"))
        with torch.no_grad():
            tokens = model.encode(model.adapters["image"](case.inputs["images"]))["image"]
            maps = model(case.inputs["images"])[-1]
        expected = case.outputs["features"].transpose(0, 1)
        case.compare("features", tokens, expected)
        case.compare("maps", maps.flatten(2).transpose(1, 2), expected[:, 1:])


def layer_decay(case: Case) -> None:
    """Official groups from official names: layer, lr scale and weight decay of each parameter."""
    tables = json.loads((case.folder / "tables.json").read_text())
    presets = {
        "segmentation": "official-segmentation",
        "detection": "official-detection",
        "vision_classification": "official-classification",
    }
    for family, facts in tables.items():
        rule = LayerDecayRule(
            decay_rate=facts.get(
                "decay_rate", facts.get("layer_decay", facts.get("lr_decay_rate", 1.0))
            ),
            weight_decay=facts.get("base_weight_decay", facts.get("weight_decay", 0.0)),
            preset=presets.get(family, "official-multimodal"),
        )
        expected = facts.get("table") or {
            name: {"lr_scale": scale} for name, scale in facts["lr_factor"].items()
        }
        depth = facts.get("num_layers", 1)
        per_block = any(
            re.search(r"rel_pos_table_list\.1|layers\.\d+\.rel_pos_table", n) for n in expected
        )
        model = OnePeace(Arch(8, depth, 1, 8), rpb="per_block" if per_block else "shared")
        in_backbone = family in ("segmentation", "detection")
        for name, want in expected.items():
            own = checkpoint.own_name(name) or name
            if own != name and in_backbone and name.startswith("backbone."):
                own = f"backbone.{own}"
            prefix = "backbone." if in_backbone else ""
            group = rule.group(
                own,
                facts.get("shapes", {}).get(name, (1, 1)),
                partial(model.get_layer_depth, prefix=prefix),
            )
            for key in ("layer_id", "lr_scale", "weight_decay"):
                if want.get(key) is not None:
                    got = getattr(group, key)
                    case.error = max(case.error, abs(got - want[key]))
                    case.check_that(
                        math.isclose(got, want[key], rel_tol=case.rtol or 1e-9),
                        f"{family} {name}: {key} {got} != {want[key]}",
                    )
