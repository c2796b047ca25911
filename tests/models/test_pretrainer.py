import pytest
import torch
from mmengine.structures import BaseDataElement

from mmonepeace.layers.decoder import Decoder
from mmonepeace.layers.tokens import Tokens
from mmonepeace.models import OnePeacePretrainer
from mmonepeace.models.losses import contrastive
from mmonepeace.spec import EOS_ID, get_arch
from tests.conftest import randomise

ARCH = dict(embed_dim=16, depth=2, num_heads=2, ffn_dim=24)
INPUTS = {
    "image": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    "text": torch.tensor([[5, 6, 7, EOS_ID], [8, 9, 4, EOS_ID], [4, 9, 9, EOS_ID]]),
}
KEEPS = {
    view: {"image": torch.tensor([[0, 1, 3]] * 3), "text": torch.tensor([[0, 2]] * 3)}
    for view in ("alone", "joint")
}


def build(with_cp=False, drop_path_rate=0.0, **options):
    torch.manual_seed(1)
    backbone = dict(
        arch=ARCH, modalities=dict(text=dict(vocab_size=20), image={}), img_size=32,
        final_norm=True, drop_path_rate=drop_path_rate, with_cp=with_cp,
    )  # fmt: skip
    return randomise(OnePeacePretrainer(backbone, "vl", ARCH, **options)).train()


def step(model):
    torch.manual_seed(2)
    losses = model(INPUTS, keeps=KEEPS, mode="loss")
    loss = sum(value for name, value in losses.items() if "loss" in name)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def stored(run):
    """Bytes that a forward pass keeps for the backward pass."""
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes(), x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(size for size, _ in storages.values())


def test_checkpointing_is_that_of_encoder_and_decoder_and_changes_nothing():
    expected_loss, expected = step(build(drop_path_rate=0.5))
    model = build(with_cp=True, drop_path_rate=0.5)
    assert model.backbone.layers.with_cp
    assert model.decoder.layers.with_cp
    loss, gradients = step(model)
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-6)


def test_a_checkpointed_decoder_keeps_the_inputs_of_its_blocks_alone():
    x = {"image": torch.randn(4, 50, 16, requires_grad=True)}
    sizes, outputs, gradients = [], [], []
    for with_cp in (False, True):
        torch.manual_seed(1)
        arch = get_arch({**ARCH, "depth": 4})
        decoder = randomise(Decoder(arch, {"image": 50}, with_cp=with_cp))
        complete = {"image": Tokens(x["image"], {"image": 50})}
        run = lambda decoder=decoder, like=complete: decoder([x], like)[0]["image"]
        sizes.append(stored(run))
        outputs.append(run())
        outputs[-1].square().sum().backward()
        gradients.append({name: p.grad for name, p in decoder.named_parameters()})
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    assert sizes[1] < sizes[0] / 4


def test_contrast_mode_gives_what_the_loss_compares(monkeypatch):
    model, seen = build(drop_path_rate=0.5), {}
    compare = model.contrastive_losses

    def look(embeddings, scale, data_samples):
        seen.update(embeddings, scale=scale)
        return compare(embeddings, scale, data_samples)

    monkeypatch.setattr(model, "contrastive_losses", look)
    step(model)
    torch.manual_seed(2)
    # Whatever the order of the inputs and whatever else there is.
    embeddings, scale = model({**INPUTS, "audio": None}, mode="contrast")
    assert list(embeddings) == ["text", "image"]
    for name, expected in {**embeddings, "scale": scale}.items():
        torch.testing.assert_close(seen[name], expected, rtol=0, atol=0)


def test_a_cached_contrast_has_the_gradient_of_the_loss():
    model = build(gather="full", label_smoothing=0.1)
    embeddings, scale = model(INPUTS, mode="contrast")
    results, cached = model.cache_contrast(embeddings, scale)
    assert not any(value.requires_grad for value in results.values())
    wanted = [*embeddings.values(), scale]
    loss = model.contrastive_losses(embeddings, scale)["loss_text_image"]
    expected = torch.autograd.grad(loss, wanted, retain_graph=True)
    torch.testing.assert_close(results["loss_text_image"], loss.detach())
    parts = [slice(0, 2), slice(2, 3)]
    surrogate = sum(
        cached.part(rows).surrogate({n: x[rows] for n, x in embeddings.items()}, scale)
        for rows in parts
    )
    for actual, gradient in zip(torch.autograd.grad(surrogate, wanted), expected, strict=True):
        torch.testing.assert_close(actual, gradient)


@pytest.mark.parametrize("option", ["equal_texts_match", "equal_images_match"])
def test_what_matches_is_what_samples_have_in_common(option):
    """Two captions of a photograph, or two photographs of a caption, are no negatives."""
    embeddings, scale = build()(INPUTS, mode="contrast")
    names = dict(text=["a", "a", "b"], img_path=["1.png", "2.png", "2.png"])
    samples = [
        BaseDataElement(metainfo={key: of[i] for key, of in names.items()}) for i in range(3)
    ]
    loss = build(**{option: True}).contrastive_losses(embeddings, scale, samples)["loss_text_image"]
    groups = torch.tensor([0, 0, 1] if option == "equal_texts_match" else [0, 1, 1])
    expected = contrastive(embeddings["text"], embeddings["image"], scale, groups_B=groups).loss
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("start", "expected"), [(9.0, 100.0), (-3.0, 1.0)])
def test_the_scale_stays_in_range(start, expected):
    model = build()
    model.logit_scale.data.fill_(start)
    assert model.scale().item() == pytest.approx(expected)
    assert model.logit_scale.exp().item() == pytest.approx(expected)


def test_views_that_share_features_equal_those_that_do_not(monkeypatch):
    expected_loss, expected = step(build())
    model = build()
    reconstruct = model.reconstruct

    def separately(keeps, features, complete):
        return reconstruct(keeps, model.backbone.features(INPUTS))

    monkeypatch.setattr(model, "reconstruct", separately)
    loss, gradients = step(model)
    torch.testing.assert_close(loss, expected_loss)
    for name, gradient in expected.items():
        scale = gradient.abs().max() + 0.1
        torch.testing.assert_close(gradients[name] / scale, gradient / scale, rtol=0, atol=1e-5)


def test_the_denoising_weight_scales_these_losses_only():
    full, light = (
        build(denoising_weight=weight)(INPUTS, keeps=KEEPS, mode="loss") for weight in (1.0, 0.1)
    )
    assert list(light) == list(full)
    for name, value in full.items():
        factor = 0.1 if name.startswith("loss_denoise") else 1.0
        torch.testing.assert_close(light[name], factor * value)


def test_without_a_denoising_weight_there_is_nothing_to_denoise():
    model = build(denoising_weight=0.0)
    results = model(INPUTS, mode="loss")  # no keeps
    assert set(results) == {
        "logit_scale", "loss_text_image", "acc_text_to_image", "acc_image_to_text"
    }  # fmt: skip
    results["loss_text_image"].backward()
    idle = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in idle} == {
        "decoder", "decoder_embeds", "mask_tokens", "mask_heads"
    }  # fmt: skip
    assert all(p.grad is not None for n, p in model.named_parameters() if n not in idle)


AUDIO = dict(feature_dim=8, num_buckets=16, pos_depth=1, pos_kernel=5, pos_groups=4)


def test_the_second_stage_may_learn_the_words_it_reads_and_no_more_of_the_text():
    torch.manual_seed(1)
    backbone = dict(
        arch=ARCH, modalities=dict(text=dict(vocab_size=20), audio=AUDIO), final_norm=True
    )
    inputs = {"text": INPUTS["text"], "audio": torch.randn(3, 2000)}
    keep = {"text": torch.tensor([[0, 2]] * 3), "audio": torch.tensor([[0, 1, 3]] * 3)}
    keeps = {"alone": keep, "joint": keep}
    found = {}
    for learn_words in (False, True):
        model = randomise(OnePeacePretrainer(backbone, "al", ARCH, learn_words=learn_words))
        losses = model.train()(inputs, keeps=keeps, mode="loss")
        sum(value for name, value in losses.items() if "loss" in name).backward()
        found[learn_words] = {n for n, p in model.named_parameters() if p.grad is not None}
    table = "backbone.adapters.text.embed_tokens.weight"
    assert found[True] - found[False] == {table}
    read = model.get_parameter(table).grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert read == sorted(set(INPUTS["text"].flatten().tolist()))


def second_stage(audio, **options):
    modalities = dict(text=dict(vocab_size=20), image={}, audio={**AUDIO, **audio})
    backbone = dict(arch=ARCH, modalities=modalities, img_size=32, final_norm=True)
    return randomise(OnePeacePretrainer(backbone, "al", ARCH, **options))


def test_without_a_first_stage_all_of_both_modalities_learns():
    model = second_stage(
        dict(features="log-mel", frame_stride=2), learn_all=True, denoising_weight=0
    )
    inputs = {"text": INPUTS["text"], "audio": torch.randn(3, 4000)}
    losses = model.train()(inputs, mode="loss")
    assert not any("denoise" in name for name in losses)
    losses["loss_text_audio"].backward()
    learned = {n for n, p in model.named_parameters() if p.grad is not None}
    assert learned == {n for n, p in model.named_parameters() if p.requires_grad}
    others = ("image", "decoder", "decoder_embeds", "mask_tokens", "mask_heads")
    still = {n for n, _ in model.named_parameters() if set(others) & set(n.split("."))}
    assert learned.isdisjoint(still)
    assert len(learned | still) == len(dict(model.named_parameters()))


def test_denoising_needs_every_frame():
    with pytest.raises(ValueError, match="Set frame_stride=1 of the audio modality"):
        second_stage(dict(features="log-mel", frame_stride=2))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(gather="fulll"), "gather is 'fulll'; choose one of official, full"),
        (
            dict(label_smoothing=1.0),
            "label_smoothing is 1.0, expected a fraction from 0 to below 1",
        ),
        (dict(denoising_smoothing=-0.1), "denoising_smoothing is -0.1"),
        (dict(denoising_weight=-1.0), "denoising_weight is -1.0, .*expected at least 0"),
        (dict(denoising_weight=float("nan")), "denoising_weight is nan"),
        (dict(denoising_scale=0), "denoising_scale 0"),
        (dict(max_logits=0), "max_logits 0"),
        (
            dict(equal_texts_match=True, equal_images_match=True),
            "equal_texts_match and equal_images_match: choose one",
        ),
    ],
)
def test_options_that_no_loss_can_have_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        build(**options)


@pytest.mark.parametrize("name", ["embed_dim", "depth", "num_heads", "ffn_dim"])
def test_sizes_are_positive_integers(name):
    for value in (0, -2, 1.5, "16"):
        with pytest.raises(ValueError, match=f"arch: {name} is {value!r}, expected an integer"):
            get_arch({**ARCH, name: value})
