import hashlib
import json
import pickle
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.models import OnePeace, OnePeaceViTAdapter, OnePeaceViTDet
from tests.checkpoint import official
from tests.checkpoint.official import assert_same, vision_of_full
from tests.conftest import ROOT, TINY

PUBLIC = ROOT.parent / "shared/parity"


def other_branches(width: int, prefix="encoder_wrapper.") -> dict[str, torch.Tensor]:
    """Some of what else the official full file has."""
    weights = {}
    weights[f"{prefix}text_adapter.embed_tokens.weight"] = torch.randn(9, width)
    weights[f"{prefix}fusion_model.layers.0.text_ffn.3.bias"] = torch.randn(width)
    weights[f"{prefix}fusion_model.image_layer_norm.weight"] = torch.randn(width)
    weights[f"{prefix}fusion_model.version"] = torch.tensor([3.0])
    weights["image_proj.weight"] = torch.randn(width, width)
    weights["logit_scale"] = torch.tensor(2.6)
    return weights


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_full_file_to_vision_and_back(model, tmp_path, suffix):
    source, ours, back = (tmp_path / n for n in ("full.pt", f"vision.{suffix}", "back.pkl"))
    full = vision_of_full(model)
    content = {"model": full | other_branches(32), "extra_state": {"best": 1.0}}
    # Objects of classes that are not installed, as in files of fairseq.
    torch.save({"cfg": Namespace(layers=3)} | content, source)
    checkpoint.convert_file(source, ours, "vision")
    assert_same(checkpoint.read(ours)[0], dict(model.state_dict()))
    checkpoint.convert_file(ours, back, "official-vision")
    content = pickle.loads(back.read_bytes())  # noqa: S301  (our own file)
    assert content["__author__"] == "ofa"
    assert content["matching_heuristics"] is True
    expected = {
        name.removeprefix("encoder_wrapper.").replace("fusion_model.", "encoder."): value
        for name, value in full.items()
    }
    assert_same(content["model"], expected)


@pytest.mark.parametrize(
    ("layout", "num_tables"), [("segmentation", 3), ("classification", 1), ("vision", 1)]
)
def test_every_vision_layout_round_trips(tmp_path, layout, num_tables):
    own = OnePeace(TINY, img_size=64, rpb="per_block" if num_tables > 1 else "shared")
    meta = {"format": "mmonepeace", "official_layout": layout}
    official = checkpoint.to_official_vision(checkpoint.Conversion(own.state_dict(), meta)).weights
    source, ours, back = (tmp_path / n for n in ("in.pth", "ours.safetensors", "back.pth"))
    torch.save({"state_dict": official, "meta": {}}, source)
    checkpoint.convert_file(source, ours, "vision")
    assert_same(checkpoint.read(ours)[0], dict(own.state_dict()))
    checkpoint.convert_file(ours, back, "official-vision")
    assert_same(checkpoint.read(back)[0], official)


def test_segmentation_file_with_heads_gives_its_backbone(model, tmp_path):
    converted = checkpoint.Conversion(dict(model.state_dict()), {"official_layout": "segmentation"})
    official = checkpoint.to_official_vision(converted).weights
    weights = {f"backbone.{key}": value for key, value in official.items()}
    weights["backbone.spm.fc1.weight"] = torch.zeros(2, 2)
    weights["decode_head.cls_embed.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": weights, "meta": {"CLASSES": ("a", "b")}}, tmp_path / "seg.pth")
    result = checkpoint.convert_file(tmp_path / "seg.pth", None, "vision")
    assert_same(result.weights, dict(model.state_dict()))
    left_out = {key for key, name, _ in result.rows if name is None and "rp_bucket" not in key}
    assert left_out == {"backbone.spm.fc1.weight", "decode_head.cls_embed.weight"}


def official_segmentor() -> dict[str, torch.Tensor]:
    """Names of the official file, as MMSegmentation 0.x made them; some of the head."""
    arch = {**TINY, "depth": 4}
    own = OnePeaceViTAdapter(arch, img_size=64, rpb="per_block", norm_cfg={"type": "BN"})
    adapter = {k: v for k, v in own.state_dict().items() if k.startswith("vit_adapter.")}
    body = {k: v for k, v in own.state_dict().items() if k not in adapter}
    meta = {"format": "mmonepeace", "official_layout": "segmentation"}
    weights = checkpoint.to_official_vision(checkpoint.Conversion(body, meta)).weights
    for key, value in adapter.items():
        name = key.removeprefix("vit_adapter.").replace("spatial_prior.", "spm.")
        weights[name] = value
    weights = {f"backbone.{key}": value for key, value in weights.items()}
    for name in (
        "query_embed.weight", "level_embed.weight", "mask_embed.4.bias",
        "transformer_decoder.layers.0.attentions.0.attn.in_proj_weight",
        "transformer_decoder.layers.0.attentions.1.attn.out_proj.bias",
        "transformer_decoder.layers.0.ffns.0.layers.0.0.weight",
        "transformer_decoder.layers.0.norms.2.bias", "transformer_decoder.post_norm.bias",
        "pixel_decoder.encoder.layers.5.attentions.0.sampling_offsets.bias",
        "pixel_decoder.encoder.layers.5.ffns.0.layers.1.bias",
        "pixel_decoder.lateral_convs.0.gn.weight",
    ):  # fmt: skip
        weights[f"decode_head.{name}"] = torch.randn(3)
    return weights


def official_detector() -> dict[str, torch.Tensor]:
    """Names of the official file, as detectron2 made them; some of the heads."""
    own = OnePeaceViTDet({**TINY, "depth": 4}, img_size=64)
    meta = {"format": "mmonepeace", "official_layout": "detection"}
    body = checkpoint.to_official_vision(checkpoint.Conversion(own.state_dict(), meta)).weights
    weights = {f"backbone.net.{key}": value for key, value in body.items()}
    for name in (
        "backbone.simfp_2.3.weight", "backbone.simfp_4.0.norm.bias",
        "proposal_generator.rpn_head.conv.conv1.bias",
        "proposal_generator.rpn_head.objectness_logits.weight",
        "proposal_generator.rpn_head.anchor_deltas.bias",
        "roi_heads.box_head.1.conv3.weight", "roi_heads.box_head.1.conv3.norm.weight",
        "roi_heads.box_head.0.fc1.bias", "roi_heads.box_predictor.2.cls_score.weight",
        "roi_heads.box_predictor.2.bbox_pred.bias", "roi_heads.mask_head.mask_fcn4.norm.bias",
        "roi_heads.mask_head.deconv.weight", "roi_heads.mask_head.predictor.bias",
    ):  # fmt: skip
        weights[name] = torch.randn(3)
    return weights


def official_classifier(norm: str) -> dict[str, torch.Tensor]:
    own = OnePeace(TINY, img_size=64)
    meta = {"format": "mmonepeace", "official_layout": "classification"}
    weights = checkpoint.to_official_vision(checkpoint.Conversion(own.state_dict(), meta)).weights
    beside = {f"{norm}.{p}": torch.randn(32) for p in ("weight", "bias")}
    return weights | beside | {"head.weight": torch.randn(5, 32), "head.bias": torch.randn(5)}


@pytest.mark.parametrize(
    ("make", "container"),
    [
        (official_segmentor, "state_dict"),
        (official_detector, "model"),
        (lambda: official_classifier("fc_norm"), "model"),
        (lambda: official_classifier("encoder.layer_norm"), "model"),
    ],
    ids=["segmentor", "detector", "classifier of means", "classifier of CLS"],
)
def test_models_with_heads_go_there_and_back(tmp_path, make, container):
    source, ours, back = (tmp_path / n for n in ("in.pth", "ours.pth", "back.pth"))
    official = make()
    torch.save({container: official, "meta": {"CLASSES": ("a", "b")}}, source)
    converted = checkpoint.convert_file(source, ours, "model")
    left_out = {why for _, name, why in converted.rows if name is None}
    assert left_out <= {checkpoint.RECOMPUTED}
    # What a model of the MM libraries is loaded from.
    stored = torch.load(ours, weights_only=True)["state_dict"]
    heads = ("backbone.", "decode_head.", "neck.", "rpn_head.", "roi_head.", "head.fc.")
    assert all(key.startswith(heads) for key in stored)
    assert "backbone.adapters.image.pos_embed" in stored
    checkpoint.convert_file(ours, back, "official-model")
    assert_same(torch.load(back, weights_only=True)[container], official)


def test_an_encoder_without_heads_is_not_a_model(model, tmp_path):
    torch.save({"model": dict(model.state_dict())}, tmp_path / "vision.pth")
    for target in ("model", "official-model"):
        with pytest.raises(CheckpointError, match=r"vision\.pth: it has no heads.*--to vision"):
            checkpoint.convert_file(tmp_path / "vision.pth", None, target)


def test_dtypes_survive(model, tmp_path):
    torch.save(
        {"model": {k: v.bfloat16() for k, v in model.state_dict().items()}}, tmp_path / "a.pth"
    )
    checkpoint.convert_file(tmp_path / "a.pth", tmp_path / "b.safetensors", "vision")
    weights = checkpoint.read(tmp_path / "b.safetensors")[0]
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("middle", ["own.safetensors", "own.pth"])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"dtype": torch.bfloat16, "pretraining": True},
        {"pre_norm": True, "per_block": True, "classifier": True},
    ],
    ids=["released", "pretraining in bf16", "fine-tuned with pre-norm"],
)
def test_full_file_there_and_back_is_the_same_file(tmp_path, middle, variant):
    source, ours, back = (tmp_path / name for name in ("full.pt", middle, "back.pt"))
    full, cfg = official.full(**variant), {"task": {"max_duration": 15.0}, "model": None}
    torch.save({"args": None, "cfg": cfg, "model": full, "extra_state": {"best": 1}}, source)
    checkpoint.convert_file(source, ours, "full")
    weights, meta = checkpoint.read(ours)
    assert len(weights) == sum(value.is_floating_point() for value in full.values()) - sum(
        "version" in key for key in full
    )
    assert meta["audio_padding"] == "compat"
    checkpoint.convert_file(ours, back, "official-full")
    content = torch.load(back, weights_only=True)
    assert content.keys() == {"args", "cfg", "model"}
    assert content["cfg"] == cfg
    assert_same(content["model"], full)


@pytest.mark.parametrize("absent", ["rp_bucket", "position_idx", "version"])
def test_buffers_come_back_as_the_source_had_them(absent):
    full = {key: value for key, value in official.full().items() if not key.endswith(absent)}
    back = checkpoint.to_official_full(checkpoint.to_own(full)).weights
    assert_same(back, full)


def test_own_models_get_every_buffer():
    full = official.full(pretraining=True)
    converted = checkpoint.to_own(full)
    del converted.meta["official_buffers"]
    assert_same(checkpoint.to_official_full(converted).weights, full)


def test_buffers_of_the_source_are_never_trusted():
    full = official.full()
    wrong = {k: v + 1 if k.endswith(("rp_bucket", "version")) else v for k, v in full.items()}
    assert_same(checkpoint.to_official_full(checkpoint.to_own(wrong)).weights, full)


@pytest.mark.parametrize("key", ["official_cfg", "official_buffers"])
def test_damaged_metadata_is_refused(key):
    converted = checkpoint.to_own(official.full())
    converted.meta[key] = '{"encoder_wrapper.text_adapter.rp_bucket": '
    with pytest.raises(CheckpointError, match=key):
        checkpoint.to_official_full(converted)


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the complete parity set is not at {PUBLIC.name}")
def test_every_official_state_dict_round_trips():
    files, seen, digests = {}, set(), 0
    for manifest in sorted(PUBLIC.glob("*/case.json")):
        stored = json.loads(manifest.read_text()).get("weights", {})
        names, omitted = {}, stored.get("omitted_buffers", {})
        for part in stored.get("parts", []):
            tensors = files.setdefault(part["file"], load_file(PUBLIC / part["file"]))
            keys = part["keys"] or {key: key for key in tensors}
            names |= {new: tensors[old] for new, old in keys.items()}
        forms = frozenset((key, tuple(value.shape)) for key, value in names.items())
        if not any(key.startswith("encoder_wrapper.") for key in names) or forms in seen:
            continue
        seen.add(forms)
        full = names | {name: torch.zeros(1, dtype=torch.long) for name in omitted}
        back = checkpoint.to_official_full(checkpoint.to_own(full)).weights
        for name, facts in omitted.items():
            table = back.pop(name)
            assert hashlib.sha256(table.numpy().data).hexdigest() == facts["sha256"], name
            digests += 1
        assert_same(back, names)
    assert len(seen) > 5
    assert digests > 5


def test_dry_run_prints_the_keys_and_writes_nothing(model, tmp_path, run_tool):
    path = tmp_path / "full.pt"
    torch.save({"model": vision_of_full(model)}, path)
    done = run_tool(path, tmp_path / "out.pth", "--to", "vision", "--dry-run")
    assert done.returncode == 0
    for text in (
        "encoder_wrapper.image_adapter.pos_embed",
        "adapters.image.pos_embed",
        "index map",
    ):
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == [path]


def test_the_tool_converts_to_shards_and_back(tmp_path, run_tool):
    full = official.full()
    torch.save({"model": full}, tmp_path / "full.pt")
    arguments = ("--to", "full", "--shard-size", "0.05MB")
    done = run_tool(tmp_path / "full.pt", tmp_path / "own.safetensors", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("own-*-of-*.safetensors"))) > 3
    done = run_tool(tmp_path / "own.safetensors", tmp_path / "back.pt", "--to", "official-full")
    assert done.returncode == 0, done.stderr
    assert_same(checkpoint.read(tmp_path / "back.pt")[0], full)
    done = run_tool(
        tmp_path / "full.pt", tmp_path / "x.safetensors", "--to", "full", "--shard-size", "5"
    )
    assert "5GB" in done.stderr


def test_numbers_that_are_not_finite_are_converted_with_a_warning(model, tmp_path, run_tool):
    weights = dict(model.state_dict())
    weights["layers.0.norm1.bias"] = weights["layers.0.norm1.bias"] * torch.nan
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": weights}, tmp_path / "run/iter_3.pth")
    done = run_tool(tmp_path / "run", tmp_path / "a.safetensors", "--to", "full")
    assert done.returncode == 0
    assert "1 tensors have NaN or infinite numbers, such as layers.0.norm1.bias" in done.stderr
    assert checkpoint.read(tmp_path / "a.safetensors")[0]["layers.0.norm1.bias"].isnan().all()
