"""Parity rules of pretraining: masked encoding, losses with gradients, stage two from stage one."""

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.models import OnePeacePretrainer
from tests.parity.case import Case, Tensors
from tests.parity.rules_models import (
    adapter_options,
    arch_of,
    backbone_config,
    compare_gradients,
    gradients_of,
    inputs_of,
    load,
)

TINY_NORM = 1e-6  # the direction of a smaller gradient is noise


def _decoder(config: dict[str, Any]) -> dict[str, Any]:
    return dict(
        embed_dim=config["embed_dim"],
        depth=config["layers"],
        num_heads=config["attention_heads"],
        ffn_dim=config["ffn_embed_dim"],
        sub_norm=config["magneto_scale_attn"],
        ffn_norm=config["scale_fc"],
        head_scale=config["scale_heads"],
        post_attn_norm=config["scale_attn"],
    )


def _pretrainer(case: Case, stage: str) -> OnePeacePretrainer:
    weights, decoder = case.weights(), case.config["decoder"]
    criterion = case.config.get("criterion", {})
    model = OnePeacePretrainer(
        backbone_config(case.config, weights, stored_positions=False),
        stage,
        _decoder(decoder),
        decoder_layer_scale_init=0.01 if decoder["use_layer_scale"] else None,
        denoising_scale=criterion.get("dcl_logit_scale", 2.5),
        denoising_smoothing=criterion.get("label_smoothing", 0.1),
        mask_padding=False,
    )
    return load(model, weights)


def _stage(inputs: dict[str, Any]) -> str:
    return "al" if "audio" in inputs else "vl"


def _kept(case: Case, names: Any, prefix: str) -> Tensors:
    keys = {name: f"{prefix}{name}_preserve_ids" for name in names}
    return {name: case.inputs[key] for name, key in keys.items() if key in case.inputs}


def masked(case: Case) -> None:
    """What the encoder makes of kept tokens, and the decoder of whole sequences."""
    inputs = inputs_of(case)
    stage = _stage(inputs)
    keep = _kept(case, inputs, f"{stage}_" if len(inputs) > 1 else "")
    model = _pretrainer(case, stage)
    encoded = model.backbone.encode(model.backbone.embed(inputs, keep))
    (decoded,) = model.reconstruct([keep], model.backbone.features(inputs))
    got, where = {}, {}
    for name in inputs:
        got |= {
            f"inter.encoder.{name}_features": encoded[name],
            f"{name}_features": decoded[name],
        }
        where |= {
            f"inter.encoder.{name}_features": keep[name] >= 0,
            f"{name}_features": case.inputs.get(f"{name}_valid"),
        }
    case.compare_outputs(got, where)


def pretraining_loss(case: Case) -> None:
    """Components, and the gradient of every parameter of their sum."""
    inputs = inputs_of(case)
    stage = _stage(inputs)
    model = _pretrainer(case, stage)
    keeps = {"alone": _kept(case, inputs, ""), "joint": _kept(case, inputs, f"{stage}_")}
    other = model.stage.pair[1]
    criterion = case.config.get("criterion", {})
    with torch.enable_grad():
        losses = model(inputs, keeps=keeps, mode="loss")
        contrast = losses[f"loss_text_{other}"]
        total, components = contrast, {}
        for name, weighted in losses.items():
            if match := re.fullmatch(r"loss_denoise_(joint_)?(\w+)", name):
                own = model.stage.weights["joint" if match[1] else match[2]]
                key = f"dcl_{f'{stage}_' if match[1] else ''}{match[2]}"
                components[f"{key}_loss"] = weighted / own
                # Our weights are the released ones; the case may have others.
                total = total + weighted * (criterion.get(f"{key}_alpha", own) / own)
        total.backward()
    pairs = len(inputs["text"])
    components |= {
        "loss": total,
        f"{other[0]}tc_loss": contrast,
        "logit_scale_exp": losses["logit_scale"],
        f"{other[0]}2t_ncorrect": losses[f"acc_{other}_to_text"] * pairs,
        f"t2{other[0]}_ncorrect": losses[f"acc_text_to_{other}"] * pairs,
        "nsentences": torch.tensor(pairs),
        "sample_size": torch.tensor(1),  # the losses are means
    }
    case.compare_outputs({f"component.{name}": x.detach() for name, x in components.items()})
    compare_gradients(case, model)
    _compare_gradient_directions(case, gradients_of(model))


def _compare_gradient_directions(case: Case, gradients: dict[str, Tensor | None]) -> None:
    """The gradients that the case has in full, by their relative L2 error."""
    for key, expected in case.tensors("grads").items():
        got = gradients[checkpoint.own_name(key)]
        if expected.norm() < TINY_NORM:
            continue
        error = ((got - expected).norm() / expected.norm()).item()
        allowed = case.tolerance["grad_relative_l2"]
        case.check_that(error <= allowed, f"gradient of {key} is off by {error:.2e}")


def load_stage1_into_stage2(case: Case) -> None:
    """Which parameters of stage two come from stage one, and which are trained."""
    encoder = case.config["encoder"]

    def build(stage: str, *names: str) -> OnePeacePretrainer:
        backbone = dict(
            arch=arch_of(encoder),
            modalities={m: adapter_options(encoder, m, vocab_size=10) for m in names},
            img_size=16 * encoder["image_adapter"]["rel_bucket_size"],
            final_norm=True,
        )
        return OnePeacePretrainer(backbone, stage, _decoder(case.config["decoder"]))

    first, second = build("vl", "text", "image"), build("al", "text", "audio")
    for parameter in first.parameters():
        parameter.data.fill_(0.5)
    before = _own_names(second.state_dict())
    before = {name: value.clone() for name, value in before.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.safetensors"
        own = _own_names(first.state_dict())
        checkpoint.write(path, checkpoint.Conversion(own, {"format": "mmonepeace"}))
        second.load_stage_one(str(path))
    after = _own_names(second.state_dict())
    trained = _own_names({n: p for n, p in second.named_parameters() if p.requires_grad})
    for key, source in case.manifest["key_source"].items():
        own_name = checkpoint.own_name(key)
        # The logit scale always begins from its initial value: the option of the released recipe.
        if own_name in after and own_name != "logit_scale":
            unchanged = torch.equal(before[own_name], after[own_name])
            case.check_that(unchanged == (source != "copied"), f"{key}: {source}")
    for key in case.manifest["trainable"]:
        own_name = checkpoint.own_name(key)
        case.check_that(own_name not in after or own_name in trained, f"{key} is frozen")
    for key in case.manifest["frozen"]:
        case.check_that(checkpoint.own_name(key) not in trained, f"{key} is trained")


def _own_names(weights: dict[str, Any]) -> dict[str, Any]:
    """Without the prefix that a model puts before its backbone."""
    return {name.removeprefix("backbone."): value for name, value in weights.items()}
