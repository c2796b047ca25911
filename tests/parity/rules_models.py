"""Parity rules of whole models: encoding, embeddings, heads, loading, pretraining."""

import math
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.layers.heads import ClassificationHead
from mmonepeace.layers.resampling import resample_pos_embed
from mmonepeace.layers.tokens import dense
from mmonepeace.models import (
    OnePeaceClassifier,
    OnePeacePretrainer,
    OnePeaceRetriever,
)
from mmonepeace.spec import Arch
from tests.parity.case import Case, Tensors


def _arch(encoder: dict[str, Any]) -> Arch:
    image = encoder["image_adapter"]
    return Arch(
        encoder["embed_dim"],
        encoder["layers"],
        encoder["attention_heads"],
        encoder["ffn_embed_dim"],
        stem={"hmlp": "hmlp", "mlp": "conv"}[image["vision_encoder_type"]],
        sub_norm=encoder["magneto_scale_attn"],
        ffn_norm=encoder["scale_fc"],
        head_scale=encoder["scale_heads"],
        post_attn_norm=encoder["scale_attn"],
        embed_norm=image["layernorm_embedding"],
        type_embed=image["add_type_embedding"],
    )


def _backbone(config: dict[str, Any], weights: Tensors) -> dict[str, Any]:
    """The configuration of our backbone, from that of the reference."""
    encoder = config["encoder"]
    text, image, audio = (encoder[f"{m}_adapter"] for m in ("text", "image", "audio"))
    converted = checkpoint.to_own(weights).weights
    options = {
        "text": lambda: dict(
            vocab_size=len(converted["adapters.text.embed_tokens.weight"]),
            num_buckets=text["bucket_size"],
        ),
        "image": dict,
        "audio": lambda: dict(
            feature_dim=int(re.search(r"\((\d+),", audio["feature_encoder_spec"])[1]),
            num_buckets=audio["bucket_size"],
            pos_depth=audio["conv_pos_depth"],
            pos_kernel=max(3, audio["conv_pos_width"] // audio["conv_pos_depth"]),
            pos_groups=audio["conv_pos_groups"],
            pos_pre_norm=audio["conv_pos_pre_ln"],
        ),
    }
    # A modality whose FFN is switched off is no branch of this model.
    present = [
        m for m in options if encoder[f"use_{m}_moe"] and f"adapters.{m}.cls_token" in converted
    ]
    per_block = any(f"adapters.{m}.rpb.tables.1" in converted for m in present)
    return dict(
        arch=_arch(encoder),
        modalities={m: options[m]() for m in present},
        img_size=16 * image["rel_bucket_size"],
        rpb="per_block" if per_block else "shared",
        final_norm=True,
    )


def _official_file(weights: Tensors, folder: str) -> str:
    """A file as the official code writes it."""
    path = Path(folder) / "official.pt"
    torch.save({"args": None, "cfg": None, "model": weights}, path)
    return str(path)


def _load(model: Any, weights: Tensors, allow_missing: tuple[str, ...] = ()) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model.load_checkpoint(_official_file(weights, folder), allow_missing)
    return model.eval()


def _inputs(case: Case) -> dict[str, Any]:
    """Modality -> what our adapters take."""
    found: dict[str, Any] = {}
    if "src_tokens" in case.inputs:
        found["text"] = case.inputs["src_tokens"]
    if "src_images" in case.inputs:
        found["image"] = case.inputs["src_images"]
    if "src_audios" in case.inputs:
        # The reference counts CLS in the mask.
        found["audio"] = (case.inputs["src_audios"], case.inputs["audio_padding_masks"][:, 1:])
    return found


def encode(case: Case) -> None:
    """Features, embeddings and every intermediate value; single modalities and joint ones."""
    weights = case.weights()
    model = _load(OnePeaceRetriever(_backbone(case.config, weights)), weights)
    inputs = _inputs(case)
    backbone = model.backbone
    tokens = backbone.embed(inputs)
    blocks = backbone.layers(tokens, range(backbone.arch.depth))
    features = backbone.encode(tokens)
    pads = tokens.split(torch.zeros(tokens.x_BLD.shape[:2], dtype=torch.bool) if tokens.pad_BL is None else tokens.pad_BL)  # fmt: skip
    got = {f"inter.layer{i}": (x, torch.cat(list(pads.values()), 1)) for i, x in enumerate(blocks)}
    for name, x in features.items():
        alone = backbone.embed({name: inputs[name]})
        got |= {
            f"{name}_features": (x, pads[name]),
            f"inter.encoder.{name}_features": (x, pads[name]),
            f"inter.adapter.{name}.x": (alone.x_BLD, pads[name]),
            f"inter.adapter.{name}.bias_layer0": (dense(alone.bias(0, torch.float32)), None),
            f"inter.adapter.{name}.padding_mask": (pads[name], None),
        }
        if len(features) == 1:
            got[f"{name}_logits"] = (model(inputs)[name], None)
        valid = case.inputs.get(f"{name}_valid")
        case.check_that(valid is None or valid.equal(~pads[name]), f"{name}: padding differs")
    for name, expected in case.outputs.items():
        if name not in got:
            case.check_that(False, f"{name}: no rule for this output")
            continue
        actual, pad = got[name]
        case.compare(name, actual, expected, where=None if pad is None else ~pad)


def retrieval(case: Case) -> None:
    """Normalised projected CLS of each modality, and the temperature."""
    weights = case.weights()
    model = _load(OnePeaceRetriever(_backbone(case.config, weights)), weights)
    _compare_embeddings(case, model)


def _compare_embeddings(case: Case, model: OnePeaceRetriever) -> None:
    got = {f"{name}_logits": x for name, x in model(_inputs(case)).items()}
    got["logit_scale_exp"] = model.scale()
    for name, expected in case.outputs.items():
        case.compare(name, got[name], expected)


def criterion_retrieval(case: Case) -> None:
    """Loss, share of right answers and the norm of every gradient."""
    weights = case.weights()
    config = Case(case.root, case.manifest["weights"]["model_case"]).config
    smoothing = case.config.get("criterion", {}).get("label_smoothing", 0.0)
    model = OnePeaceRetriever(_backbone(config, weights), label_smoothing=smoothing)
    _load(model, weights)
    with torch.enable_grad():
        losses = model(_inputs(case), mode="loss")
        (name,) = (key for key in losses if key.startswith("loss"))
        losses[name].backward()
    case.compare("loss", losses[name].detach(), case.outputs["loss"])
    case.compare("log.logit_scale_exp", losses["logit_scale"], case.outputs["log.logit_scale_exp"])
    number = case.outputs["log.nsentences"]
    letters = {"i": "image", "a": "audio", "t": "text"}
    for key, expected in case.outputs.items():
        if match := re.fullmatch(r"log\.(.)2(.)_ncorrect", key):
            share = losses[f"acc_{letters[match[1]]}_to_{letters[match[2]]}"]
            case.compare(key, share * number, expected)
    _compare_gradients(case, model)


def _compare_gradients(case: Case, model: Any) -> None:
    """The norm of each gradient; absent or zero ones included."""
    weights = case.weights()
    gradients = {n.removeprefix("backbone."): p.grad for n, p in model.named_parameters()}
    rtol = case.manifest["tolerance"]["grad_norm_rtol"]
    for key, expected in case.manifest["grad_norms"].items():
        own = checkpoint.own_name(key) or ""
        gradient = gradients.get(own)
        if own == "adapters.image.pos_embed" and len(weights[key]) != len(gradient):
            # We resample positions once, when they are loaded; the reference in each forward.
            gradient = _pulled_back(gradient, len(weights[key]))
        got = 0.0 if gradient is None else gradient.norm().item()
        case.check_that(
            math.isclose(got, expected, rel_tol=rtol, abs_tol=1e-6), f"{key}: {got} != {expected}"
        )


def _pulled_back(gradient: Tensor, rows: int) -> Tensor:
    """Gradient of the stored position table, from that of the resampled one."""
    table = torch.zeros(rows, gradient.shape[1], requires_grad=True)
    side = math.isqrt(len(gradient) - 1)
    with torch.enable_grad():
        resample_pos_embed(table, (side, side)).backward(gradient)
    return table.grad


def _pretrainer(case: Case, stage: str) -> OnePeacePretrainer:
    weights, decoder = case.weights(), case.config["decoder"]
    arch = dict(
        embed_dim=decoder["embed_dim"],
        depth=decoder["layers"],
        num_heads=decoder["attention_heads"],
        ffn_dim=decoder["ffn_embed_dim"],
        sub_norm=decoder["magneto_scale_attn"],
        ffn_norm=decoder["scale_fc"],
        head_scale=decoder["scale_heads"],
        post_attn_norm=decoder["scale_attn"],
    )
    criterion = case.config.get("criterion", {})
    model = OnePeacePretrainer(
        _backbone(case.config, weights),
        stage,
        arch,
        decoder_layer_scale_init=0.01 if decoder["use_layer_scale"] else None,
        denoising_scale=criterion.get("dcl_logit_scale", 2.5),
        denoising_smoothing=criterion.get("label_smoothing", 0.1),
        mask_padding=False,
    )
    return _load(model, weights)


def _kept(case: Case, names: Any, prefix: str) -> Tensors:
    keys = {name: f"{prefix}{name}_preserve_ids" for name in names}
    return {name: case.inputs[key] for name, key in keys.items() if key in case.inputs}


def masked(case: Case) -> None:
    """What the decoder makes of kept tokens."""
    inputs = _inputs(case)
    stage = "al" if "audio" in inputs else "vl"
    keep = _kept(case, inputs, f"{stage}_" if len(inputs) > 1 else "")
    model = _pretrainer(case, stage)
    kept = model.backbone.embed(inputs, keep)
    (got,) = model.reconstruct(inputs, [{name: keep[name] for name in inputs}])
    for name, features in model.backbone.encode(kept).items():
        case.compare(
            f"inter.encoder.{name}_features",
            features,
            case.outputs[f"inter.encoder.{name}_features"],
            where=keep[name] >= 0,
        )
        valid = case.inputs.get(f"{name}_valid")
        case.compare(f"{name}_features", got[name], case.outputs[f"{name}_features"], where=valid)


def pretraining_loss(case: Case) -> None:
    """Components, and the gradient of every parameter."""
    inputs = _inputs(case)
    stage = "al" if "audio" in inputs else "vl"
    model = _pretrainer(case, stage)
    keeps = {"alone": _kept(case, inputs, ""), "joint": _kept(case, inputs, f"{stage}_")}
    with torch.enable_grad():
        losses = model(inputs, keeps=keeps, mode="loss")
        total = sum(value for name, value in losses.items() if name.startswith("loss"))
        total.backward()
    other = model.stage.pair[1]
    weights = {n: w for n, w in case.config["criterion"].items() if n.endswith("_alpha")}
    parts = {
        "loss": total,
        f"{other[0]}tc_loss": losses[f"loss_text_{other}"],
        "logit_scale_exp": losses["logit_scale"],
        f"{other[0]}2t_ncorrect": losses[f"acc_{other}_to_text"] * len(inputs["text"]),
        f"t2{other[0]}_ncorrect": losses[f"acc_text_to_{other}"] * len(inputs["text"]),
    }
    for name in losses:
        if match := re.fullmatch(r"loss_denoise_(joint_)?(\w+)", name):
            key = f"dcl_{f'{stage}_' if match[1] else ''}{match[2]}"
            parts[f"{key}_loss"] = losses[name] / weights[f"{key}_alpha"]
    for name, value in parts.items():
        case.compare(name, value.detach(), case.outputs[f"component.{name}"])
    _compare_gradients(case, model)
    gradients = {n.removeprefix("backbone."): p.grad for n, p in model.named_parameters()}
    for key, entry in case.manifest["grads"].items():
        expected = load_file(case.root / entry["file"])[entry["key"]]
        got = gradients[checkpoint.own_name(key)]
        error = ((got - expected).norm() / expected.norm().clamp(min=1e-12)).item()
        allowed = case.manifest["tolerance"]["grad_relative_l2"]
        case.check_that(error <= allowed, f"gradient of {key} is off by {error:.2e}")


def load_stage1_into_stage2(case: Case) -> None:
    """Which parameters of stage two come from stage one, and which are trained."""
    facts, arch = case.manifest, dict(embed_dim=32, depth=2, num_heads=4, ffn_dim=48)
    decoder = dict(embed_dim=16, depth=1, num_heads=2, ffn_dim=16)
    modalities = {"text": {"vocab_size": 10}, "image": {}, "audio": {"feature_dim": 8}}

    def build(stage: str, *names: str) -> OnePeacePretrainer:
        chosen = {name: modalities[name] for name in names}
        return OnePeacePretrainer(
            dict(arch=arch, modalities=chosen, img_size=64, final_norm=True), stage, decoder
        )

    first, second = build("vl", "text", "image"), build("al", "text", "audio")
    for parameter in first.parameters():
        parameter.data.fill_(0.5)
    before = {name: value.clone() for name, value in second.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.safetensors"
        own = {n.removeprefix("backbone."): v for n, v in first.state_dict().items()}
        checkpoint.write(path, checkpoint.Conversion(own, {"format": "mmonepeace"}))
        second.load_stage_one(str(path))
    after = {n.removeprefix("backbone."): v for n, v in second.state_dict().items()}
    kept = {
        n.removeprefix("backbone.") for n, v in before.items()
        if torch.equal(v, second.state_dict()[n])
    }  # fmt: skip
    trained = {n.removeprefix("backbone.") for n, p in second.named_parameters() if p.requires_grad}
    for key, source in facts["key_source"].items():
        own = checkpoint.own_name(key)
        if own in after:
            same = own in kept
            case.check_that(
                same == (source != "copied") or own == "logit_scale", f"{key}: {source}"
            )
    for key in facts["trainable"]:
        own = checkpoint.own_name(key)
        case.check_that(own not in after or own in trained, f"{key} is frozen")
    for key in facts["frozen"]:
        case.check_that(checkpoint.own_name(key) not in trained, f"{key} is trained")


def _head(config: dict[str, Any]) -> dict[str, Any]:
    return dict(
        num_classes=config["num_classes"],
        attn_pooling=config["attn_pooling"],
        pooler=config["use_pooler"],
        hidden_ratio=config["head_scale_ratio"],
        num_views=2 if config.get("use_two_images") else 1,
    )


def head_classify(case: Case) -> None:
    config = case.config
    arch = Arch(config["input_dim"], 1, config["num_heads"], config["input_dim"])
    head = ClassificationHead(arch, **_head(config)).eval()
    names = {
        checkpoint.own_name(f"classify_head.{key.removeprefix('classify_head.')}"): value
        for key, value in case.weights().items()
    }
    head.load_state_dict({name.removeprefix("head."): value for name, value in names.items()})
    views = [
        (case.inputs[name], case.inputs["padding_mask"])
        for name in ("features", "features_2")
        if name in case.inputs
    ]
    case.compare("logits", head(views), case.outputs["logits"])


def _classifier(case: Case, backbone: dict[str, Any]) -> OnePeaceClassifier:
    return OnePeaceClassifier(
        backbone,
        _head(case.config),
        pool_over="image" if case.config["use_image_features"] else None,
    )


def _compare_logits(case: Case, model: OnePeaceClassifier) -> None:
    inputs: Any = _inputs(case)
    if "src_images_2" in case.inputs:
        inputs = [inputs, inputs | {"image": (case.inputs["src_images_2"], True)}]
    case.compare("logits", model(inputs), case.outputs["logits"])


def classify(case: Case) -> None:
    weights = case.weights()
    _compare_logits(case, _load(_classifier(case, _backbone(case.config, weights)), weights))


def load_pretrained(case: Case) -> None:
    """A pretrained file into a fine-tuning model: copied, resampled, decoupled; then forward."""
    weights = case.weights()
    retrieval = case.config.get("copy_rel_pos_table") is not None
    config = _backbone(case.config, weights) | {"rpb": "per_block"}
    # The heads tell which branches the fine-tuned model has.
    wanted = {"vl": ("text", "image"), "al": ("text", "audio"), "val": ("text", "image", "audio")}
    wanted |= {m: (m,) for m in ("text", "image", "audio")}
    names = wanted[case.config["head_type"]]
    config["modalities"] = {m: o for m, o in config["modalities"].items() if m in names}
    model: Any = OnePeaceRetriever(config) if retrieval else _classifier(case, config)
    _load(model, weights, ("head.",))
    state = {k.removeprefix("backbone."): v for k, v in model.state_dict().items()}
    atol = case.manifest["tolerance"].get("transformed_atol")
    for key, entry in case.manifest["transformed"].items():
        expected = load_file(case.root / entry["file"])[entry["key"]]
        case.compare(key, state[checkpoint.own_name(key)], expected, atol=atol)
    kept = {
        checkpoint.own_name(key): load_file(case.root / entry["file"])[entry["key"]]
        for key, entry in case.manifest["kept_initial"].items()
        if checkpoint.own_name(key)  # index maps are computed, not stored
    }
    model.load_state_dict(kept, strict=False)
    if retrieval:
        _compare_embeddings(case, model)
    else:
        _compare_logits(case, model)
