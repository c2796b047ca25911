"""Key names: the table between the official ones and ours, read in both directions."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmonepeace.checkpoint.errors import CheckpointError, StateDict

# Official name (without its prefix) <-> own name. The first row that matches decides, in both
# directions. m: modality, i: block, j: table, p: weight or bias. Source: the official modules.
_KEY_TABLE = (
    ("{m}_adapter.cls_embedding", "adapters.{m}.cls_token"),
    ("{m}_adapter.rel_pos_table_list.{j}.weight", "adapters.{m}.rpb.tables.{j}"),
    ("{m}_adapter.layernorm_embedding.{p}", "adapters.{m}.embed_norm.{p}"),
    ("{m}_adapter.type_embedding", "adapters.{m}.type_embed"),
    ("image_adapter.type_embedding_2", "adapters.image.type_embed_2"),
    ("image_adapter.pos_embed", "adapters.image.pos_embed"),
    ("image_adapter.temporal_embedding", "adapters.image.temporal_embed"),
    ("text_adapter.embed_positions.weight", "adapters.text.pos_embed"),
    ("audio_adapter.embed_positions.weight", "adapters.audio.pos_embed"),
    ("image_adapter.embed_images.1.layer_norm.{p}", "adapters.image.stem.1.{p}"),
    ("image_adapter.embed_images.4.layer_norm.{p}", "adapters.image.stem.4.{p}"),
    ("image_adapter.embed_images.{j}.{p}", "adapters.image.stem.{j}.{p}"),
    ("image_adapter.embed_images.{p}", "adapters.image.stem.{p}"),
    ("audio_adapter.embed_audios.0.conv_layers.{j}.0.{p}", "adapters.audio.extractor.{j}.conv.{p}"),
    ("audio_adapter.embed_audios.0.conv_layers.{j}.2.1.{p}", "adapters.audio.extractor.{j}.norm.{p}"),
    ("audio_adapter.embed_audios.2.{p}", "adapters.audio.feature_norm.{p}"),
    ("audio_adapter.embed_audios.3.{p}", "adapters.audio.feature_proj.{p}"),
    ("audio_adapter.embed_positions.0.{p}", "adapters.audio.pos_conv.0.{p}"),
    ("audio_adapter.embed_positions.{j}.0.{p}", "adapters.audio.pos_conv.{j}.{p}"),
    ("{m}_adapter.{rest}", "adapters.{m}.{rest}"),
    ("layers.{i}.self_attn_layer_norm.{p}", "layers.{i}.norm1.{p}"),
    ("layers.{i}.final_layer_norm.{p}", "layers.{i}.norm2.{p}"),
    ("layers.{i}.self_attn.ln.{p}", "layers.{i}.attn.norm.{p}"),
    ("layers.{i}.self_attn.c_attn", "layers.{i}.attn.head_scale"),
    ("layers.{i}.attn_ln.{p}", "layers.{i}.post_attn_norm.{p}"),
    ("layers.{i}.self_attn.{rest}", "layers.{i}.attn.{rest}"),
    ("layers.{i}.{m}_ffn.0.wi_0.{p}", "layers.{i}.ffn.{m}.gate.{p}"),
    ("layers.{i}.{m}_ffn.0.wi_1.{p}", "layers.{i}.ffn.{m}.up.{p}"),
    ("layers.{i}.{m}_ffn.2.{p}", "layers.{i}.ffn.{m}.norm.{p}"),
    ("layers.{i}.{m}_ffn.3.{p}", "layers.{i}.ffn.{m}.down.{p}"),
    ("layers.{i}.{gamma}", "layers.{i}.{gamma}"),
    *(  # of videos
        (f"layers.{{i}}.{old}.D_fc{n}.{{p}}", f"layers.{{i}}.{new}.{linear}.{{p}}")
        for old, new in (
            ("T_Adapter", "temporal_adapter"),
            ("T_Adapter_in", "temporal_adapter_in"),
            ("S_Adapter", "spatial_adapter"),
            ("MLP_Adapter", "ffn_adapter"),
        )
        for n, linear in ((1, "down"), (2, "up"))
    ),
    ("{m}_layer_norm.{p}", "norms.{m}.{p}"),
    ("{m}_proj.{p}", "projections.{m}.{p}"),
    ("logit_scale", "logit_scale"),
    # Dense prediction: ViT-Adapter; then the heads, with the names of today's MM libraries.
    ("level_embed", "vit_adapter.level_embed"),
    ("spm.{rest}", "vit_adapter.spatial_prior.{rest}"),
    ("interactions.{rest}", "vit_adapter.interactions.{rest}"),
    ("up.{p}", "vit_adapter.up.{p}"),
    ("norm{j}.{rest}", "vit_adapter.norm{j}.{rest}"),
    ("head.{p}", "head.fc.{p}"),
    ("cls_head.fc_cls.{p}", "head.fc_cls.{p}"),
    ("classify_head.attn_pooling_func.q", "head.pool.query"),
    ("classify_head.attn_pooling_func.{rest}", "head.pool.{rest}"),
    ("classify_head.{rest}", "head.{rest}"),
    ("decode_head.{decoder}.layers.{i}.attentions.0.{rest}", "decode_head.{decoder}.layers.{i}.cross_attn.{rest}"),
    ("decode_head.{decoder}.layers.{i}.attentions.1.{rest}", "decode_head.{decoder}.layers.{i}.self_attn.{rest}"),
    ("decode_head.{decoder}.layers.{i}.ffns.0.{rest}", "decode_head.{decoder}.layers.{i}.ffn.{rest}"),
    ("decode_head.{encoder}.layers.{i}.attentions.0.{rest}", "decode_head.{encoder}.layers.{i}.self_attn.{rest}"),
    ("decode_head.{encoder}.layers.{i}.ffns.0.{rest}", "decode_head.{encoder}.layers.{i}.ffn.{rest}"),
    ("decode_head.{rest}", "decode_head.{rest}"),
    *((f"simfp_{level + 2}.{{rest}}", f"neck.levels.{level}.{{rest}}") for level in range(4)),
    ("proposal_generator.rpn_head.conv.conv{j}.{p}", "rpn_head.rpn_conv.{j}.conv.{p}"),
    ("proposal_generator.rpn_head.objectness_logits.{p}", "rpn_head.rpn_cls.{p}"),
    ("proposal_generator.rpn_head.anchor_deltas.{p}", "rpn_head.rpn_reg.{p}"),
    *(
        (f"roi_heads.{old}{n + 1}.{inner}", f"roi_head.{new}.{n}.{name}")
        for old, new in (
            ("box_head.{i}.conv", "bbox_head.{i}.shared_convs"),
            ("mask_head.mask_fcn", "mask_head.convs"),
        )
        for n in range(4)
        for inner, name in (("weight", "conv.weight"), ("norm.{p}", "ln.{p}"))
    ),
    ("roi_heads.box_head.{i}.fc1.{p}", "roi_head.bbox_head.{i}.shared_fcs.0.{p}"),
    ("roi_heads.box_predictor.{i}.cls_score.{p}", "roi_head.bbox_head.{i}.fc_cls.{p}"),
    ("roi_heads.box_predictor.{i}.bbox_pred.{p}", "roi_head.bbox_head.{i}.fc_reg.{p}"),
    ("roi_heads.mask_head.deconv.{p}", "roi_head.mask_head.upsample.{p}"),
    ("roi_heads.mask_head.predictor.{p}", "roi_head.mask_head.conv_logits.{p}"),
    # Pretraining only. The decoder itself has the names of an encoder, behind `decoder.`.
    ("decoder_{m}_embed.{p}", "decoder_embeds.{m}.{p}"),
    ("{m}_mask_head.{p}", "mask_heads.{m}.{p}"),
    ("{m}_mask_token", "mask_tokens.{m}"),
)  # fmt: skip
# Forms in other official files that mean the same as a row above.
_ALIASES = (
    ("{m}_adapter.rel_pos_table.weight", "{m}_adapter.rel_pos_table_list.0.weight"),
    ("layers.{i}.rel_pos_table.weight", "image_adapter.rel_pos_table_list.{i}.weight"),
    ("layers.{i}.layer_norms.0.{p}", "layers.{i}.self_attn_layer_norm.{p}"),
    ("layers.{i}.layer_norms.1.{p}", "layers.{i}.final_layer_norm.{p}"),
    # Classification: norm of pooled patches, or of all tokens before CLS is taken.
    ("fc_norm.{p}", "image_layer_norm.{p}"),
    ("encoder.layer_norm.{p}", "image_layer_norm.{p}"),
    # With a LayerNorm before the positional convolutions.
    ("audio_adapter.embed_positions.1.{j}.0.{p}", "audio_adapter.embed_positions.{j}.0.{p}"),
)
_NUMBER = r"(?:0|[1-9][0-9]{0,2})"  # not 01, and not 999999999
_MAX_BLOCKS = 256
_FIELDS = {
    "m": "text|image|audio",
    "i": _NUMBER,
    "j": _NUMBER,
    "p": "weight|bias",
    "gamma": "gamma_[12]",
    "encoder": r"pixel_decoder\.encoder",
    "decoder": "transformer_decoder",
    "rest": ".+",
}


def _compile(rows: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    def to_regex(template: str) -> str:
        fields = {name: f"(?P<{name}>{pattern})" for name, pattern in _FIELDS.items()}
        return re.escape(template).replace(r"\{", "{").replace(r"\}", "}").format(**fields)

    return [(re.compile(to_regex(source)), target) for source, target in rows]


_FROM_OFFICIAL = _compile(_KEY_TABLE)
_TO_OFFICIAL = _compile((own, official) for official, own in _KEY_TABLE)
_FROM_ALIAS = _compile(_ALIASES)
_OFFICIAL_PREFIX = re.compile(
    r"(module\.)?(backbone\.(net\.)?)?(?P<decoder>decoder_wrapper\.)?"
    r"((encoder_wrapper\.)?(fusion_model|encoder)\.(?=layers\.|\w+_layer_norm\.)|encoder_wrapper\.)?"
)
# What encoder and decoder consist of; everything else is outside them.
_BODY = re.compile(r"(adapters|(?P<fusion>layers|norms))\.")
_WEIGHT_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
# Own names, including those of modalities that the official code does not have.
_OWN = re.compile(
    r"(decoder\.)?(adapters|layers|norms)\.|vit_adapter\."
    r"|(projections|head|decoder_embeds|mask_heads|mask_tokens)\.|logit_scale$"
    r"|(decode_head|auxiliary_head|neck|rpn_head|roi_head|bbox_head|mask_head)\."
)
# Metadata of a checkpoint of a run -> what its weights are known to come from.
_OF_RUN = {"experiment_name": "trained_run", "iter": "trained_iterations"}
_MAX_FACT = 200  # characters
# Deterministic index maps and a version number: never read from a file.
RECOMPUTED = "index map, recomputed"
_BUFFER = re.compile(r"(.*\.)?(rp_bucket(_window)?|position_idx|version)")


def _rename(key: str, rows: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, target in rows:
        if match := pattern.fullmatch(key):
            return target.format(**match.groupdict())
    return None


def own_name(official: str) -> str | None:
    """Our name of a parameter in any of the official layouts; None if unknown."""
    if _BUFFER.fullmatch(official):
        return None
    prefix: Any = _OFFICIAL_PREFIX.match(official)  # always matches, if only nothing
    key = official[prefix.end() :]
    name = _rename(_rename(key, _FROM_ALIAS) or key, _FROM_OFFICIAL)
    if name and prefix["decoder"]:
        return f"decoder.{name}" if _BODY.match(name) else None
    return name


def official_name(own: str) -> str | None:
    """Name of one of our parameters in the official full model; None if it has no such parameter."""
    inner = own.removeprefix("decoder.")
    name, body = _rename(inner, _TO_OFFICIAL), _BODY.match(inner)
    if name is None or not body:
        return name if inner == own else None
    wrapper = "encoder_wrapper" if inner == own else "decoder_wrapper"
    return f"{wrapper}.fusion_model.{name}" if body["fusion"] else f"{wrapper}.{name}"


def is_vision(name: str) -> bool:
    """Whether an own name belongs to the exported vision branch (no final norm, no projection)."""
    if name.startswith("layers."):
        return ".ffn." not in name or ".ffn.image." in name
    return name.startswith("adapters.image.")


@dataclass
class Conversion:
    """A state dict, its metadata, and what each key of the file was converted to."""

    weights: StateDict
    meta: dict[str, str]
    # Key in the file, new key or None, why it was left out.
    rows: list[tuple[str, str | None, str]] = field(default_factory=list)

    def add(self, key: str, name: str, value: Tensor) -> None:
        """Take a tensor over under a new name; a CheckpointError if another one has it."""
        if name in self.weights:
            other = next(old for old, new, _ in self.rows if new == name)
            raise CheckpointError(f"the keys {other} and {key} both mean {name}.")
        self.rows.append((key, name, ""))
        self.weights[name] = value


def to_own(weights: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> Conversion:
    """Rename the weights of an official or own checkpoint, every modality, to our names.

    Args:
        weights: names of any official layout, or ours, as a runner saves them too.
        meta: metadata of the file, as `read` gives it.

    Raises:
        CheckpointError: if the weights are not those of a ONE-PEACE encoder, or blocks are missing.
    """
    own = any(re.match(r"(backbone\.)?adapters\.\w+\.", key) for key in weights)
    result = Conversion({}, {"format": "mmonepeace"})
    _check_numbers(weights)
    for key, value in weights.items():
        if own:
            name = re.sub(r"^backbone\.(?=(adapters|layers|norms|vit_adapter)\.)", "", key)
            name = name if _OWN.match(name) else None
        else:
            name = own_name(key)
        if name:
            result.add(key, name, value)
        else:
            reason = RECOMPUTED if _BUFFER.fullmatch(key) else "not part of the model"
            result.rows.append((key, None, reason))
    _check_kinds(result)
    blocks = {int(k.split(".")[1]) for k in result.weights if re.match(r"layers\.\d", k)}
    adapters = {k.split(".")[1] for k in result.weights if k.startswith("adapters.")}
    if not blocks or not adapters:
        raise CheckpointError(
            f"this is the checkpoint of another model: its keys look like {next(iter(weights))!r}, "
            "ONE-PEACE has image_adapter.*, and encoder.layers.* or fusion_model.layers.*."
        )
    if absent := sorted(set(range(max(blocks) + 1)) - blocks):
        named = f"{absent}" if len(absent) < 9 else f"{absent[0]} to {absent[-1]}"
        raise CheckpointError(f"of {max(blocks) + 1} blocks, {named} are missing from the file.")
    facts = {"official_layout": "vision" if adapters == {"image"} else "full", **(meta or {})}
    if not own:
        facts |= _official_facts(weights)
        if "audio" in adapters:  # trained with padding that the positional convolutions see
            facts.setdefault("audio_padding", "compat")
    for key, name in _OF_RUN.items():
        if isinstance(facts.get(key), int | str):
            facts[name] = str(facts[key])[:_MAX_FACT]
    kept = ("official_", "task", "trained_", *(f"{modality}_" for modality in adapters))
    result.meta |= {key: str(value) for key, value in facts.items() if key.startswith(kept)}
    return result


def _check_numbers(keys: Iterable[str]) -> None:
    """Refuse keys whose block has no number that a model's block can have."""
    for key in keys:
        for number in re.findall(r"\blayers\.(-?\w+)", key):
            if not re.match(r"-?\d", number):
                continue
            if not re.fullmatch(_NUMBER, number) or int(number) >= _MAX_BLOCKS:
                raise CheckpointError(
                    f"the key {key:.80} is of no block: expected layers.0 to "
                    f"layers.{_MAX_BLOCKS - 1}."
                )


def _check_kinds(converted: Conversion) -> None:
    """Refuse weights that are not numbers a model can be trained with."""
    for name, value in converted.weights.items():
        if value.is_complex() or (_BODY.match(name) and value.dtype not in _WEIGHT_DTYPES):
            if name.endswith("num_batches_tracked"):
                continue
            raise CheckpointError(
                f"{name} is {str(value.dtype).removeprefix('torch.')}; weights are float32, "
                "float16, bfloat16 or float64."
            )


def _official_facts(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Layout and buffers of an official file, so that converting back gives the same keys."""
    keys = " ".join(weights)
    if "encoder_wrapper." in keys:
        buffers = {
            key.removeprefix("module."): str(value.dtype).removeprefix("torch.")
            for key, value in weights.items()
            if _BUFFER.fullmatch(key)
        }
        return {"official_layout": "full", "official_buffers": json.dumps(buffers)}
    if ".T_Adapter." in keys:
        return {"official_layout": "video"}
    if "backbone.net." in keys:
        return {"official_layout": "detection"}
    if re.search(r"layers\.\d+\.rel_pos_table\.", keys):
        return {"official_layout": "segmentation"}
    if "image_adapter.rel_pos_table." in keys:
        norm = "encoder.layer_norm" if "encoder.layer_norm." in keys else "fc_norm"
        return {"official_layout": "classification", "official_norm": norm}
    return {"official_layout": "vision"}


def select_vision(converted: Conversion) -> Conversion:
    """The vision branch of a checkpoint; a CheckpointError if it has none."""
    rows = [
        row if not row[1] or is_vision(row[1]) else (row[0], None, "not part of the vision branch")
        for row in converted.rows
    ]
    weights = {key: value for key, value in converted.weights.items() if is_vision(key)}
    if not any(".ffn." in key for key in weights) or "adapters.image.pos_embed" not in weights:
        raise CheckpointError("the file has no vision branch (image adapter and image FFNs).")
    kept = ("format", "official_layout", "trained_", "image_")
    meta = {key: value for key, value in converted.meta.items() if key.startswith(kept)}
    return Conversion(weights, meta, rows)
