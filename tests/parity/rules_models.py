"""Parity rules of models: encoding, embeddings, heads, loading."""

import math
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.layers.heads import ClassificationHead
from mmonepeace.models import OnePeaceClassifier, OnePeaceGrounder, OnePeaceRetriever
from mmonepeace.spec import Arch
from tests.parity.case import Case, Tensors

MODALITIES = ("text", "image", "audio")


def arch_of(encoder: dict[str, Any]) -> Arch:
    """Our widths, from the options of the encoder of the reference."""
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
        embed_norm=_of_adapters(encoder, "layernorm_embedding"),
        type_embed=_of_adapters(encoder, "add_type_embedding"),
    )


def _of_adapters(encoder: dict[str, Any], option: str) -> bool:
    """An option of the adapters; those of branches that are switched off do not count."""
    values = {encoder[f"{m}_adapter"][option] for m in MODALITIES if encoder[f"use_{m}_moe"]}
    if len(values) > 1:
        raise ValueError(f"{option} differs between adapters; our encoder has one for all.")
    return values.pop()


def adapter_options(encoder: dict[str, Any], modality: str, vocab_size: int) -> dict[str, Any]:
    """Options of our adapter, from those of the encoder of the reference."""
    options = encoder[f"{modality}_adapter"]
    if modality == "text":
        return dict(vocab_size=vocab_size, num_buckets=options["bucket_size"])
    if modality == "audio":
        return dict(
            feature_dim=int(re.search(r"\((\d+),", options["feature_encoder_spec"])[1]),
            num_buckets=options["bucket_size"],
            pos_depth=options["conv_pos_depth"],
            pos_kernel=max(3, options["conv_pos_width"] // options["conv_pos_depth"]),
            pos_groups=options["conv_pos_groups"],
            pos_pre_norm=options["conv_pos_pre_ln"],
        )
    return {}


def backbone_config(
    config: dict[str, Any], weights: Tensors, stored_positions: bool = True
) -> dict[str, Any]:
    """The configuration of our backbone, from that of the reference and its weights.

    With `stored_positions` those of images stay as they are stored, and are resampled in each
    forward, as in the reference; otherwise they are resampled once, when they are loaded.
    """
    encoder = config["encoder"]
    converted = checkpoint.to_own(weights).weights
    words = converted.get("adapters.text.embed_tokens.weight", ())
    # A modality whose FFN is switched off is not a branch of this model.
    present = [
        m for m in MODALITIES if encoder[f"use_{m}_moe"] and f"adapters.{m}.cls_token" in converted
    ]
    per_block = any(f"adapters.{m}.rpb.tables.1" in converted for m in present)
    modalities = {m: adapter_options(encoder, m, len(words)) for m in present}
    side = encoder["image_adapter"]["rel_bucket_size"]
    if "image" in modalities and stored_positions:
        positions = converted["adapters.image.pos_embed"]
        modalities["image"] = dict(
            img_size=16 * math.isqrt(len(positions) - 1),
            rpb_sides=[side] * (encoder["layers"] if per_block else 1),
        )
    return dict(
        arch=arch_of(encoder),
        modalities=modalities,
        img_size=16 * side,
        rpb="per_block" if per_block else "shared",
        final_norm=True,
    )


def load(model: Any, weights: Tensors, allow_missing: tuple[str, ...] = ()) -> Any:
    """The model with these weights, through a file as the official code writes it, in eval mode."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "official.pt"
        torch.save({"args": None, "cfg": None, "model": weights}, path)
        model.load_checkpoint(str(path), allow_missing)
    return model.eval()


def inputs_of(case: Case) -> dict[str, Any]:
    """Modality -> what our adapters take."""
    inputs: dict[str, Any] = {}
    if "src_tokens" in case.inputs:
        inputs["text"] = case.inputs["src_tokens"]
    if "src_images" in case.inputs:
        inputs["image"] = case.inputs["src_images"]
    if "src_audios" in case.inputs:
        # The reference counts CLS in the mask.
        inputs["audio"] = (case.inputs["src_audios"], case.inputs["audio_padding_masks"][:, 1:])
    return inputs


def encode(case: Case) -> None:
    """Features, embeddings and every intermediate value; single modalities and joint ones."""
    weights = case.weights()
    model = load(OnePeaceRetriever(backbone_config(case.config, weights)), weights)
    inputs = inputs_of(case)
    backbone = model.backbone
    tokens = backbone.embed(inputs)
    blocks = backbone.layers(tokens, range(backbone.arch.depth))
    features = backbone.encode(tokens)
    pad_BL = tokens.pad_BL
    if pad_BL is None:
        pad_BL = torch.zeros(tokens.x_BLD.shape[:2], dtype=torch.bool)
    pads = tokens.split(pad_BL)
    got = {f"inter.layer{i}": x for i, x in enumerate(blocks)}
    where = dict.fromkeys(got, ~torch.cat(list(pads.values()), 1))
    for name, x in features.items():
        unimodal = backbone.embed({name: inputs[name]})
        of_tokens = {
            f"{name}_features": x,
            f"inter.encoder.{name}_features": x,
            f"inter.adapter.{name}.x": unimodal.x_BLD,
        }
        where |= dict.fromkeys(of_tokens, ~pads[name])
        got |= of_tokens | {
            f"inter.adapter.{name}.bias_layer0": unimodal.bias(0, torch.float32).dense(),
            f"inter.adapter.{name}.padding_mask": pads[name],
        }
        if len(features) == 1:
            got[f"{name}_logits"] = model(inputs)[name]
        valid = case.inputs.get(f"{name}_valid")
        case.check_that(valid is None or valid.equal(~pads[name]), f"{name}: padding differs")
    case.compare_outputs(got, where)


def retrieval(case: Case) -> None:
    """Normalised projected CLS of each modality, and the temperature."""
    weights = case.weights()
    model = load(OnePeaceRetriever(backbone_config(case.config, weights)), weights)
    _compare_embeddings(case, model)


def _compare_embeddings(case: Case, model: OnePeaceRetriever) -> None:
    got = {f"{name}_logits": x for name, x in model(inputs_of(case)).items()}
    case.compare_outputs(got | {"logit_scale_exp": model.scale()})


def criterion_retrieval(case: Case) -> None:
    """Loss, number of correct matches and the norm of every gradient."""
    weights = case.weights()
    config = _model_of(case)
    smoothing = case.config.get("criterion", {}).get("label_smoothing", 0.0)
    model = OnePeaceRetriever(backbone_config(config, weights), label_smoothing=smoothing)
    load(model, weights)
    inputs = inputs_of(case)
    with torch.enable_grad():
        losses = model(inputs, mode="loss")
        (name,) = (key for key in losses if key.startswith("loss"))
        losses[name].backward()
    first, second = name.removeprefix("loss_").split("_")
    pairs = next(len(x[0]) if isinstance(x, tuple) else len(x) for x in inputs.values())
    got = {
        **_counts(1, pairs),  # the loss is a mean
        "loss": losses[name].detach(),
        "log.logit_scale_exp": losses["logit_scale"],
    }
    for a, b in ((first, second), (second, first)):
        got[f"log.{a[0]}2{b[0]}_ncorrect"] = losses[f"acc_{a}_to_{b}"] * pairs
    case.compare_outputs(got)
    compare_gradients(case, model)


def gradients_of(model: Any) -> dict[str, Tensor | None]:
    """Our name of a parameter -> its gradient."""
    return {n.removeprefix("backbone."): p.grad for n, p in model.named_parameters()}


def compare_gradients(case: Case, model: Any, times: int = 1) -> None:
    """The norm of each gradient, absent and zero ones included; ours `times` a number."""
    gradients = gradients_of(model)
    for key, expected in case.manifest.get("grad_norms", {}).items():
        gradient = gradients.get(checkpoint.own_name(key) or "")
        got = 0.0 if gradient is None else times * gradient.norm().item()
        rtol = case.tolerance["grad_norm_rtol"]
        case.check_that(
            math.isclose(got, expected, rel_tol=rtol, abs_tol=1e-6), f"{key}: {got} != {expected}"
        )


def _head(config: dict[str, Any]) -> dict[str, Any]:
    return dict(
        num_classes=config["num_classes"],
        attn_pooling=config["attn_pooling"],
        pooler=config["use_pooler"],
        hidden_ratio=config["head_scale_ratio"],
        num_views=2 if config.get("use_two_images") else 1,
    )


def head_classify(case: Case) -> None:
    """The head by itself, on stored features."""
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
    case.compare_outputs({"logits": head(views)})


def _classifier(
    config: dict[str, Any], backbone: dict[str, Any], **options: Any
) -> OnePeaceClassifier:
    pool_over = "image" if config["use_image_features"] else None
    return OnePeaceClassifier(backbone, _head(config), pool_over, **options)


def _compare_logits(case: Case, model: OnePeaceClassifier) -> None:
    inputs = inputs_of(case)
    if "src_images_2" in case.inputs:
        inputs["image_2"] = case.inputs["src_images_2"]
    case.compare_outputs({"logits": model(inputs)})


def classify(case: Case) -> None:
    """Logits of a classification model."""
    weights = case.weights()
    _compare_logits(
        case, load(_classifier(case.config, backbone_config(case.config, weights)), weights)
    )


def criterion_classify(case: Case) -> None:
    """Loss of one class, soft targets, several classes or candidates, and every gradient's norm."""
    options, classes = case.config["criterion"], case.inputs["target"]
    smoothing = options.get("label_smoothing", 0.0)
    loss: dict[str, Any] = dict(type="mmonepeace.ClassLoss", label_smoothing=smoothing)
    if options.get("use_multi_label"):
        loss = dict(type="mmonepeace.MultiLabelLoss")
    elif "num_choices" in options:
        loss = dict(type="mmonepeace.HingeLoss", margin=options["margin"])
    config, weights = _model_of(case), case.weights()
    backbone = backbone_config(config, weights)
    candidates = options.get("num_choices", 1)
    model = load(_classifier(config, backbone, num_candidates=candidates, loss=loss), weights)
    name = "gt_score" if classes.is_floating_point() else "gt_label"
    losses = _differentiate(case, model, name)
    number = len(classes)
    case.compare_outputs(
        _counts(number, number)
        | {"loss": losses["loss"].detach() * number, "log.n_correct": losses["acc"] * number}
    )


def criterion_grounding(case: Case) -> None:
    """Losses of boxes and every gradient's norm.

    Where no predicted box has its corners in order, the loss of the reference is NaN, ours is not.
    """
    config, weights = _model_of(case), case.weights()
    head = {k: v for k, v in _head(config).items() if k != "num_classes"}
    pool_over = "image" if config["use_image_features"] else "text"
    model = load(OnePeaceGrounder(backbone_config(config, weights), head, pool_over), weights)
    losses = _differentiate(case, model, "gt_box", ori_shape=(1, 1))
    loss = losses["loss_l1"].detach() + losses["loss_giou"].detach()
    case.check_that(bool(loss.isfinite()), f"loss: {loss}")
    if case.outputs["loss"].isnan():
        boxes = model(inputs_of(case))
        in_order = (boxes[:, :2] < boxes[:, 2:]).all(1)
        case.check_that(not in_order.any(), "the reference has no loss, but we have boxes")
        case.outputs.pop("loss")
    case.compare_outputs(_counts(1, len(case.inputs["target"])) | {"loss": loss})


def _model_of(case: Case) -> dict[str, Any]:
    """Options of the model that a criterion is computed with."""
    return Case(case.root, case.manifest["weights"]["model_case"]).config


def _differentiate(case: Case, model: Any, name: str, **meta: Any) -> dict[str, Tensor]:
    """Losses with the targets of a case, each sample's as `name`; compares gradients."""
    samples = []
    for target in case.inputs["target"]:
        samples.append(BaseDataElement(metainfo=meta, **{name: target}))
    with torch.enable_grad():
        losses = model(inputs_of(case), samples, mode="loss")
        model.parse_losses(losses)[0].backward()
    # Officially a sum, of which the trainer takes the mean, but for boxes.
    compare_gradients(case, model, 1 if name == "gt_box" else len(samples))
    return losses


def _counts(sample_size: int, sentences: int) -> Tensors:
    """What the reference divides its gradients by, and logs."""
    return {
        "sample_size": torch.tensor(sample_size),
        "log.sample_size": torch.tensor(sample_size),
        "log.nsentences": torch.tensor(sentences),
    }


def load_pretrained(case: Case) -> None:
    """A pretrained file into a fine-tuning model: copied, resampled, decoupled; then forward."""
    weights = case.weights()
    retrieval = case.config.get("copy_rel_pos_table") is not None
    config = backbone_config(case.config, weights, stored_positions=False) | {"rpb": "per_block"}
    # The kind of head says which branches the fine-tuned model has.
    wanted = {"vl": ("text", "image"), "al": ("text", "audio"), "val": ("text", "image", "audio")}
    wanted |= {m: (m,) for m in ("text", "image", "audio")}
    names = wanted[case.config["head_type"]]
    config["modalities"] = {m: o for m, o in config["modalities"].items() if m in names}
    model: Any = OnePeaceRetriever(config) if retrieval else _classifier(case.config, config)
    load(model, weights, ("head.",))
    state = {k.removeprefix("backbone."): v for k, v in model.state_dict().items()}
    atol = case.tolerance.get("transformed_atol")
    for key, expected in case.tensors("transformed").items():
        case.compare(key, state[checkpoint.own_name(key)], expected, atol=atol)
    kept = {checkpoint.own_name(k): value for k, value in case.tensors("kept_initial").items()}
    kept.pop(None, None)  # index maps, which we compute
    model.load_state_dict(kept, strict=False)
    if retrieval:
        _compare_embeddings(case, model)
    else:
        _compare_logits(case, model)
