"""Compare mmonepeace with tensors computed by the official code.

Run:    python tests/parity/check.py FOLDER [--only GLOB]...
Format: FOLDER/CASE/case.json names weights, inputs, outputs and tolerances (safetensors).
Prints: a line per case: name, largest error, tolerance, passed / failed / no rule.
Exit:   0 all passed, 1 a case failed, 2 a --only pattern matches no case with a rule.

Only the public classes and the converter are used, so a pass is a statement about the product.
"""

import argparse
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.engine.optim import LayerDecayRule
from mmonepeace.layers.position import resample_pos_embed, resample_rpb, rpb_index
from mmonepeace.models import OnePeace
from mmonepeace.spec import Arch

Tensors = dict[str, Tensor]


class Case:
    """One folder of the parity set."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.folder = root, root / name
        self.manifest = json.loads((root / name / "case.json").read_text())
        self.inputs = self._group("inputs")
        self.outputs = self._group("outputs")
        self.config = self.manifest.get("config", {})
        tolerance = self.manifest["tolerance"]
        self.atol, self.rtol = tolerance.get("atol", 0.0), tolerance.get("rtol", 0.0)
        self.error = 0.0
        self.failures: list[str] = []

    def _group(self, name: str) -> Tensors:
        entries = self.manifest.get(name, {})
        return {k: load_file(self.root / e["file"])[e["key"]] for k, e in entries.items()}

    def weights(self, name: str = "weights") -> Tensors:
        """The state dict stored under `name`, with the reference key names."""
        merged: Tensors = {}
        for part in self.manifest[name]["parts"]:
            tensors = load_file(self.root / part["file"])
            names = part["keys"] or {key: key for key in tensors}
            merged.update({new: tensors[old] for new, old in names.items()})
        return merged

    def compare(self, name: str, actual: Tensor, expected: Tensor) -> None:
        """Record the error of one tensor."""
        if actual.shape != expected.shape:
            self.failures.append(f"{name}: shape {tuple(actual.shape)} != {tuple(expected.shape)}")
            return
        difference = (actual.double() - expected.double()).abs()
        allowed = self.atol + self.rtol * expected.double().abs()
        self.error = max(self.error, difference.max().item() if difference.numel() else 0.0)
        # `not <=` rather than `>`: a NaN fails.
        if not bool((difference <= allowed).all()):
            self.failures.append(f"{name}: off by {difference.max():.3g}")

    def check_that(self, holds: bool, message: str) -> None:
        """Record a fact that is no tensor."""
        if not holds:
            self.failures.append(message)


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


def vision_seg_backbone(case: Case) -> None:
    """Twice: from the weights as loaded officially, and from the converted pretrained ones."""
    config = case.config
    arch = Arch(
        config["embed_dim"], config["layers"], config["attention_heads"], config["ffn_embed_dim"]
    )
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


def encode_image(case: Case) -> None:
    config = case.config["encoder"]
    image = config["image_adapter"]
    arch = Arch(
        config["embed_dim"],
        config["layers"],
        config["attention_heads"],
        config["ffn_embed_dim"],
        stem={"hmlp": "hmlp", "mlp": "conv"}[image["vision_encoder_type"]],
        sub_norm=config["magneto_scale_attn"],
        head_scale=config["scale_heads"],
        post_attn_norm=config["scale_attn"],
        embed_norm=image["layernorm_embedding"],
        type_embed=image["add_type_embedding"],
    )
    converted = checkpoint.to_own(case.weights()).weights
    per_block = "adapters.image.rpb.tables.1" in converted
    model = OnePeace(
        arch,
        img_size=16 * image["rel_bucket_size"],
        rpb="per_block" if per_block else "shared",
        final_norm=True,
    ).eval()
    _load_into(model, converted)
    with torch.no_grad():
        tokens = model.adapters["image"](case.inputs["src_images"])
        blocks = model.layers(tokens, range(arch.depth))
        features = model.encode(tokens)["image"]
        cls = torch.nn.functional.linear(
            features[:, 0],
            converted["projections.image.weight"],
            converted["projections.image.bias"],
        )
        got = {
            "image_logits": torch.nn.functional.normalize(cls, dim=1),
            "image_features": features,
            "inter.encoder.image_features": features,
            "inter.adapter.image.x": tokens.x_BLD,
            "inter.adapter.image.bias_layer0": tokens.bias(0, torch.float32),
            "inter.adapter.image.padding_mask": torch.zeros(features.shape[:2], dtype=torch.bool),
            **{f"inter.layer{i}": x for i, x in enumerate(blocks)},
        }
    for name, expected in case.outputs.items():
        if name not in got:
            case.check_that(False, f"{name}: no rule for this output")
        else:
            case.compare(name, got[name], expected)


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
            own = checkpoint.own_name(name.removeprefix("decoder_wrapper."))
            if own and name.startswith("decoder_wrapper."):
                own = f"decoder.{own}"
            elif own and in_backbone and name.startswith("backbone."):
                own = f"backbone.{own}"
            own = own or name
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


# Name pattern of the cases -> rule. The first match decides.
RULES: tuple[tuple[str, Callable[[Case], Any]], ...] = (
    ("rpb_image_2d*", rpb_image_2d),
    ("rpb_geometric_resize*", rpb_geometric_resize),
    ("abs_pos_resize*", abs_pos_resize),
    ("vision_convert*", vision_convert),
    ("vision_seg_backbone*", vision_seg_backbone),
    ("encode_image*", encode_image),
    ("layer_decay*", layer_decay),
)


def find_rule(name: str) -> Callable[[Case], Any] | None:
    """The rule for a case, or None."""
    return next((rule for pattern, rule in RULES if fnmatch(name, pattern)), None)


def run_case(root: Path, name: str) -> tuple[str, Case | None]:
    """Check one case.

    Returns:
        "passed", "failed" or "no rule", and the case with its error (None without a rule).
    """
    rule = find_rule(name)
    if rule is None:
        return "no rule", None
    case = Case(root, name)
    try:
        rule(case)
    except Exception as error:  # noqa: BLE001  (one broken case must not hide the others)
        case.failures.append(f"{type(error).__name__}: {error}")
    return "failed" if case.failures else "passed", case


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", metavar="GLOB", default=[])
    args = parser.parse_args()
    names = sorted(path.parent.name for path in args.folder.glob("*/case.json"))
    if not names:
        parser.error(f"{args.folder} holds no */case.json")
    for pattern in args.only:
        if not any(fnmatch(name, pattern) and find_rule(name) for name in names):
            parser.error(f"--only {pattern}: no case with a rule matches")
    counts = {"passed": 0, "failed": 0, "no rule": 0}
    for name in names:
        if args.only and not any(fnmatch(name, pattern) for pattern in args.only):
            continue
        status, case = run_case(args.folder, name)
        counts[status] += 1
        numbers = f"{case.error:10.2e}  atol {case.atol:.0e} rtol {case.rtol:.0e}" if case else ""
        print(f"{name:42} {numbers:38} {status}")
        for failure in (case.failures if case else [])[:5]:
            print(f"    {failure}")
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
