"""The committed parity cases, the public set where it is beside the clone, and the rules."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmonepeace.datasets import masking
from mmonepeace.models import OnePeacePretrainer
from tests import official
from tests.conftest import ROOT
from tests.parity import rules_data
from tests.parity.check import find_rule, main, run_case

COMMITTED = ROOT / "tests/assets/parity"
PUBLIC = ROOT.parent / "shared/parity"
CHECK = ROOT / "tests/parity/check.py"


def cases(folder):
    return sorted(p.parent.name for p in folder.glob("*/case.json") if find_rule(p.parent.name))


@pytest.mark.parametrize("name", cases(COMMITTED))
def test_committed_case(name):
    status, case = run_case(COMMITTED, name)
    assert status == "passed", case.failures


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the whole parity set is not at {PUBLIC.name}")
def test_public_set():
    for name in cases(PUBLIC):
        status, case = run_case(PUBLIC, name)
        assert status == "passed", (name, case.failures)


def test_exit_codes(tmp_path, monkeypatch, capsys):
    def check(*arguments):
        monkeypatch.setattr(sys, "argv", ["check.py", *map(str, arguments)])
        return main()

    with pytest.raises(SystemExit, match="2"):
        check(COMMITTED, "--only", "no_such_case")
    broken = tmp_path / "broken"
    shutil.copytree(COMMITTED, broken)
    manifest = broken / "rpb_image_2d/case.json"
    manifest.write_text(manifest.read_text().replace("index.4", "index.5", 1))
    shutil.copytree(broken / "abs_pos_resize", broken / "abs_video")
    capsys.readouterr()
    assert check(broken, "--only", "rpb_image_2d", "--only", "abs_*") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["passed", "rule", "failed"]
    assert lines[-2:] == ["1 passed, 1 failed, 1 no rule", "no rule yet: abs_video"]


def test_the_check_runs_by_itself():
    command = [sys.executable, str(CHECK), str(COMMITTED)]
    command += ["--only", "rpb_*", "--only", "abs_pos_resize"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("4 passed, 0 failed, 0 no rule\n")


# ------------------------------------------------- the rules follow what a case says and has


def edited(tmp_path, name, change):
    """A copy of the committed cases, one of whose manifests is changed."""
    root = tmp_path / "cases"
    shutil.copytree(COMMITTED, root)
    path = root / name / "case.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return run_case(root, name)


def test_intermediate_values_may_be_absent_but_not_everything(tmp_path):
    def drop(prefix):
        def change(manifest):
            outputs = manifest["outputs"].items()
            manifest["outputs"] = {k: v for k, v in outputs if not k.startswith(prefix)}

        return change

    status, case = edited(tmp_path / "some", "encode_image__m3_flags", drop("inter."))
    assert (status, set(case.outputs)) == ("passed", {"image_features", "image_logits"})
    status, case = edited(tmp_path / "all", "rpb_image_2d", drop(""))
    assert (status, case.failures) == ("failed", ["the case has nothing that its rule compares"])


def test_an_output_that_a_rule_does_not_know_fails(tmp_path):
    def change(manifest):
        manifest["outputs"]["inter.layer9"] = manifest["outputs"]["image_features"]

    status, case = edited(tmp_path, "encode_image__m3_flags", change)
    assert status == "failed"
    assert case.failures == ["inter.layer9: the rule does not compute this output"]


def write_case(root, name, tensors, **facts):
    """A case whose weights, inputs and outputs are given as tensors."""
    (root / name).mkdir(parents=True)
    for group, values in tensors.items():
        values = {key: value.contiguous() for key, value in values.items()}
        save_file(values, root / name / f"{group}.safetensors")
        file = f"{name}/{group}.safetensors"
        facts[group] = {key: dict(file=file, key=key) for key in values}
    facts["weights"] = {"parts": [dict(file=f"{name}/weights.safetensors", keys=None)]}
    (root / name / "case.json").write_text(json.dumps(facts))


def reference_options(sizes, adapters, **variant):
    """Options of an encoder or decoder under the names of the reference."""
    flags = dict(magneto_scale_attn=True, scale_attn=False, scale_fc=True, scale_heads=False)
    dim, depth, heads, ffn = sizes
    plain = dict(layernorm_embedding=False, add_type_embedding=False, vision_encoder_type="hmlp")
    return dict(
        embed_dim=dim, layers=depth, attention_heads=heads, ffn_embed_dim=ffn, **flags, **variant,
        use_text_moe=True, use_image_moe=True, use_audio_moe=False,
        **{f"{m}_adapter": plain | adapters.get(m, {}) for m in ("text", "image", "audio")},
    )  # fmt: skip


def test_a_pretraining_case_of_other_sizes_without_intermediate_values(tmp_path):
    side, vocab, encoder, decoder = 3, 40, (24, 2, 3, 20), (20, 3, 2, 12)
    shapes = official.pretraining(
        ("text", "image"), encoder[0], encoder[3], encoder[1], encoder[2],
        side=side, vocab=vocab, decoder=(decoder[0], decoder[3], decoder[1]),
    )  # fmt: skip
    weights = official.filled(shapes)
    config = dict(
        encoder=reference_options(
            encoder, {"text": {"bucket_size": 256}, "image": {"rel_bucket_size": side}}
        ),
        decoder=reference_options(decoder, {}, use_layer_scale=False),
    )
    model = OnePeacePretrainer(
        dict(
            arch=dict(zip(("embed_dim", "depth", "num_heads", "ffn_dim"), encoder, strict=True)),
            modalities={"text": {"vocab_size": vocab}, "image": {}},
            img_size=16 * side,
            final_norm=True,
        ),
        "vl",
        dict(zip(("embed_dim", "depth", "num_heads", "ffn_dim"), decoder, strict=True)),
        mask_padding=False,
    ).eval()
    torch.save({"model": weights}, tmp_path / "model.pt")
    model.load_checkpoint(str(tmp_path / "model.pt"))
    inputs = {
        "src_tokens": torch.tensor([[5, 9, 7, 2], [8, 6, 2, 1]]),
        "src_images": torch.randn(2, 3, 16 * side, 16 * side),
        "vl_text_preserve_ids": torch.tensor([[0, 2, 4], [0, 3, -1]]),
        "vl_image_preserve_ids": torch.tensor([[0, 1, 5], [0, 8, 9]]),
        "text_valid": torch.tensor([[True] * 5, [True] * 4 + [False]]),
    }
    images = inputs["src_images"]
    (students,) = model.reconstruct(
        [{m: inputs[f"vl_{m}_preserve_ids"] for m in ("text", "image")}],
        model.backbone.features({"text": inputs["src_tokens"], "image": images}),
    )
    outputs = {f"{name}_features": x.detach() for name, x in students.items()}
    tolerance = dict(atol=2e-5, rtol=0.0)
    groups = dict(weights=weights, inputs=inputs, outputs=outputs)
    write_case(tmp_path, "masked_vl__other", groups, config=config, tolerance=tolerance)
    status, case = run_case(tmp_path, "masked_vl__other")
    assert status == "passed", case.failures
    assert case.comparisons == 2
    groups["outputs"] = outputs | {"image_features": outputs["image_features"] + 1e-3}
    write_case(tmp_path, "masked_vl__wrong", groups, config=config, tolerance=tolerance)
    status, case = run_case(tmp_path, "masked_vl__wrong")
    assert (status, len(case.failures)) == ("failed", 1)


def test_mask_ratios_are_those_of_the_case(tmp_path, monkeypatch):
    starts, patches, frames, draws = np.array([1, 1, 0, 1, 1, 0, 1, 1], bool), 36, 40, 50
    tokenizer = SimpleNamespace(is_word_start=torch.from_numpy(starts))
    monkeypatch.setattr(rules_data, "_official_tokenizer", lambda case: tokenizer)
    rng = np.random.default_rng(1)
    vl = dict(text_mask_ratio=0.5, image_mask_ratio=0.25, vl_text_mask_ratio=0.75, vl_image_mask_ratio=0.5)  # fmt: skip
    al = dict(al_text_mask_ratio=0.6, al_audio_mask_ratio=0.3, audio_mask_ratio=0.7)

    def exactly(*values):
        return dict(mean=float(np.mean(values)), std=float(np.std(values)))

    text = [masking.keep_tokens(rng, starts, 0.5, 0.75)[0] for _ in range(draws)]
    hidden = [10 - len(keep) for keep in text]
    frequency = np.mean([~np.isin(np.arange(1, 9), keep) for keep in text], axis=0)
    entry = dict(caption="a", token_ids=list(range(9)), draws=draws, num_patches=patches)
    statistics = {
        "image_text": [
            entry | dict(
                config=vl,
                stats={
                    "text_masked": exactly(*hidden),
                    "vl_text_masked": exactly(6),
                    "image_masked": exactly(9),
                    "vl_image_kept": exactly(19),
                    "text_mask_is_whole_word": exactly(1),
                    "eos_or_cls_masked": exactly(0),
                },
                text_mask_frequency_per_token=frequency.tolist(),
            )
        ],
        "audio_text": [
            dict(
                caption="a", draws=draws, frames=frames, config=al,
                stats={"al_audio_masked": exactly(12), "audio_masked": exactly(28)},
            )
        ],
    }  # fmt: skip
    for name, config in (("own", vl), ("released", {})):
        folder = f"mask_statistics_{name}"
        write_case(tmp_path, folder, {}, tolerance={})
        statistics["image_text"][0]["config"] = config
        (tmp_path / folder / "statistics.json").write_text(json.dumps(statistics))
        status, case = run_case(tmp_path, folder)
        assert status == ("passed" if config else "failed"), case.failures
        if not config:
            assert "image_text.0 image_masked: 27.0..27.0" in case.failures
