import math

import pytest
import torch

from mmonepeace.layers.adapters import AudioAdapter, ImageAdapter, TextAdapter
from mmonepeace.layers.resampling import sine_positions
from mmonepeace.models import OnePeace
from mmonepeace.spec import MAX_POSITIONS, Arch, num_audio_frames

ARCH = Arch(16, 2, 2, 24)
AUDIO = {"feature_dim": 8, "num_buckets": 16, "pos_depth": 2, "pos_kernel": 5, "pos_groups": 4}


def randomise(adapter):
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter.eval()


def make_adapter(side=4, **options):
    return randomise(ImageAdapter("image", ARCH, 1, img_size=16 * side, **options))


def make_text(**options):
    return randomise(TextAdapter("text", ARCH, 1, vocab_size=50, num_buckets=8, **options))


def make_audio(**options):
    return randomise(AudioAdapter("audio", ARCH, 1, **{**AUDIO, **options}))


def test_patches_exchange_no_information():
    adapter, image = make_adapter(), torch.randn(1, 3, 64, 64)
    changed = image.clone()
    changed[:, :, 16:32, 32:48] += 1  # patch (1, 2)
    difference = (adapter(image).x_BLD - adapter(changed).x_BLD).abs().amax(2)[0]
    assert difference.nonzero().flatten().tolist() == [1 + 1 * 4 + 2]


def test_a_side_that_is_no_multiple_of_16_is_padded_with_zeros():
    adapter, image = make_adapter(), torch.randn(1, 3, 40, 50)
    padded = torch.zeros(1, 3, 48, 64)
    padded[:, :, :40, :50] = image
    assert torch.equal(adapter(image).x_BLD, adapter(padded).x_BLD)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 0, 64)])
def test_what_is_no_batch_of_rgb_images_is_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        make_adapter()(torch.zeros(shape))


def test_text_padding_is_found_zeroed_and_changes_nothing():
    adapter = make_text()
    tokens = adapter(torch.tensor([[5, 6, 2, 1, 1], [7, 8, 9, 4, 2]]))
    alone = adapter(torch.tensor([[5, 6, 2]]))
    assert tokens.pad_BL.tolist() == [[False] * 4 + [True] * 2, [False] * 6]
    assert alone.pad_BL is None
    assert torch.equal(tokens.x_BLD[:1, :4], alone.x_BLD)
    assert not tokens.x_BLD[0, 4:].any()


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.zeros(2, 3), "integers"),
        (torch.zeros(3, dtype=torch.long), "expected"),
        (torch.zeros(1, 9, dtype=torch.long), "limit of this model is 7"),
    ],
)
def test_what_is_no_batch_of_token_ids_is_refused(ids, words):
    with pytest.raises(ValueError, match=words):
        make_text(num_positions=8)(ids)


@pytest.mark.parametrize(
    ("samples", "frames"), [(399, 0), (400, 1), (16_000, 49), (16_001, 49), (240_000, 749)]
)
def test_number_of_frames(samples, frames):
    assert num_audio_frames(samples) == frames
    if 0 < samples < 20_000 and frames:
        assert make_audio()(torch.randn(1, samples)).x_BLD.shape[1] == frames + 1


def padded_clip():
    clip = torch.randn(1, 8000)
    batch = torch.cat([clip, torch.zeros(1, 4000)], 1)
    pad = torch.arange(num_audio_frames(12_000))[None] >= num_audio_frames(8000)
    return clip, batch, pad


def test_masked_audio_padding_changes_nothing_and_compat_padding_leaks():
    clip, batch, pad = padded_clip()
    for padding, changes in (("masked", False), ("compat", True)):
        adapter = make_audio(padding=padding)
        alone = adapter(clip).x_BLD
        padded = adapter(batch, pad)
        assert not padded.x_BLD[:, alone.shape[1] :].any()
        difference = (padded.x_BLD[:, : alone.shape[1]] - alone).abs().amax(2)[0]
        assert (difference[-1] > 1e-3) == changes
        assert difference[: -2 * 2 * 2].max() < 1e-5  # two convolutions reach two frames each


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_padding_of_log_mel_frames_changes_nothing(stride):
    clip, batch, pad = padded_clip()
    adapter = make_audio(features="log-mel", frame_stride=stride)
    alone, padded = adapter(clip).x_BLD, adapter(batch, pad)
    length = 1 + -(-num_audio_frames(8000) // stride)
    assert alone.shape == (1, length, 16)
    assert not padded.x_BLD[:, length:].any()
    assert padded.pad_BL[0].tolist() == [i >= length for i in range(padded.x_BLD.shape[1])]
    torch.testing.assert_close(padded.x_BLD[:, :length], alone, rtol=1e-4, atol=1e-3)


def test_a_tone_is_in_its_mel_bin():
    stem = make_audio(features="log-mel").mel_stem
    seconds = torch.arange(8000) / 16_000
    bins = [
        stem.spectrogram(2**0.5 * torch.sin(2 * torch.pi * hertz * seconds)[None])[0].mean(0)
        for hertz in (440.0, 3000.0)
    ]
    # Bin i is centred at i + 1 of 65 equal steps from 32 to 2840 mel.
    assert [int(x.argmax()) for x in bins] == [11, 42]
    assert min(float(x.max() - x.min()) for x in bins) > 2


def test_spectrograms_are_masked_in_training_only():
    torch.manual_seed(0)
    adapter, clip = make_audio(features="log-mel", spec_masks=2), torch.randn(2, 16_000)
    plain = adapter(clip).x_BLD
    assert torch.equal(adapter(clip).x_BLD, plain)
    assert not torch.equal(adapter.train()(clip).x_BLD, plain)
    pad = torch.zeros(2, 49, dtype=torch.bool)
    pad[0, 20:] = True
    hidden = adapter.mel_stem._hide(torch.ones(2, 49, 64), pad) == 0
    assert 0 < hidden.float().mean() < 0.7
    assert not hidden[0, 20:].all(1).any()  # stripes of time are where the clip is


def test_the_equaliser_changes_bands_by_what_it_says_in_training_only():
    torch.manual_seed(0)
    adapter, clips = make_audio(features="log-mel", equaliser=6.0), torch.randn(200, 8000)
    stem = adapter.mel_stem
    assert torch.equal(adapter(clips[:2]).x_BLD, adapter(clips[:2]).x_BLD)
    change = stem.spectrogram(clips, 6.0) - stem.spectrogram(clips)
    assert change.std(1).max() < 1e-4  # of a clip the same at any time
    decibels = change.mean(1) * 4 * 10 / math.log(10)
    assert abs(decibels[:, [0, 63]].std() - 6) < 1
    assert abs(decibels.mean()) < 1
    assert decibels.diff(dim=1).abs().max() < 6  # smooth
    adapter.train()
    assert not torch.equal(adapter(clips[:2]).x_BLD, adapter(clips[:2]).x_BLD)


@pytest.mark.parametrize("kernel", [4, 5])
def test_an_even_positional_kernel_keeps_the_length(kernel):
    assert make_audio(pos_kernel=kernel)(torch.randn(2, 4000)).x_BLD.shape == (2, 13, 16)


def test_what_is_no_batch_of_clips_is_refused():
    adapter = make_audio()
    for waves, words in (
        (torch.zeros(1, 399), "at least"),
        (torch.zeros(16_000), "expected"),
        (torch.zeros(1, 327_761 + 320), "limit is 1023"),
    ):
        with pytest.raises(ValueError, match=words):
            adapter(waves)
    with pytest.raises(ValueError, match="padding mask"):
        adapter(torch.zeros(1, 16_000), torch.zeros(1, 50, dtype=torch.bool))


def test_options_of_audio_are_checked():
    for options, words in (
        (dict(clip_seconds=-1), "clip_seconds is -1, expected a number above 0"),
        (dict(pos_groups=5), "pos_groups is 5; it must divide embed_dim"),
        (dict(features="mel"), "features are 'mel'; choose 'waveform' or 'log-mel'"),
        (dict(features="log-mel", frame_stride=3), "frame_stride is 3"),
        (dict(features="log-mel", spec_masks=-1), "spec_masks -1"),
        (dict(features="log-mel", equaliser=-1.0), "equaliser is -1.0, expected decibels"),
        (dict(frame_stride=2), "need features='log-mel'"),
        (dict(equaliser=6.0), "need features='log-mel'"),
    ):
        with pytest.raises(ValueError, match=words):
            make_audio(**options)


def test_another_frame_stride_than_that_of_the_weights_is_refused():
    adapter = make_audio(features="log-mel", frame_stride=2)
    adapter.adopt_metadata(adapter.metadata())
    adapter.adopt_metadata({})
    with pytest.raises(ValueError, match="trained with frame_stride 4, the model is built with 2"):
        adapter.adopt_metadata({"audio_frame_stride": "4"})
    with pytest.raises(ValueError, match="audio_frame_stride is 'x'; expected one of"):
        adapter.adopt_metadata({"audio_frame_stride": "x"})


def test_the_longest_clip_fits():
    samples = 327_759  # the official limit, 20.48 s
    assert num_audio_frames(samples) + 1 == MAX_POSITIONS
    tokens = make_audio()(torch.zeros(1, samples))
    assert tokens.bias(0, torch.float32).dense().shape == (1, 2, MAX_POSITIONS, MAX_POSITIONS)


@pytest.mark.parametrize(
    ("adapter", "inputs"),
    [
        (make_text, torch.tensor([[5, 6, 7, 8, 2]])),
        (make_adapter, torch.randn(1, 3, 32, 48)),
        (make_audio, torch.randn(1, 4000)),
    ],
)
def test_keeping_everything_is_not_masking(adapter, inputs):
    adapter = adapter()
    whole = adapter(inputs)
    kept = adapter(inputs, keep_BP=torch.arange(whole.x_BLD.shape[1])[None])
    assert torch.equal(whole.x_BLD, kept.x_BLD)
    assert kept.pad_BL is None
    assert torch.equal(*(x.bias(0, torch.float32).dense() for x in (whole, kept)))


def test_kept_tokens_bring_their_positions_and_bias():
    adapter, ids = make_text(), torch.tensor([[5, 6, 7, 8, 2], [5, 6, 7, 8, 2]])
    whole, kept = adapter(ids), adapter(ids, keep_BP=torch.tensor([[0, 2, 5], [0, 4, -1]]))
    assert kept.pad_BL.tolist() == [[False] * 3, [False, False, True]]
    assert torch.equal(kept.x_BLD[0], whole.x_BLD[0, [0, 2, 5]])
    assert torch.equal(kept.x_BLD[1, :2], whole.x_BLD[1, [0, 4]])
    bias, all_bias = (x.bias(0, torch.float32).dense() for x in (kept, whole))
    assert torch.equal(bias[0], all_bias[0][:, [0, 2, 5]][:, :, [0, 2, 5]])
    assert torch.equal(bias[1, :, :2, :2], all_bias[0][:, [0, 4]][:, :, [0, 4]])


def test_initial_positions_are_sines_if_asked_for():
    with pytest.raises(ValueError, match="initial_positions is 'cosine'; choose"):
        make_adapter(initial_positions="cosine")
    options = dict(modalities=dict(image=dict(initial_positions="sine")), img_size=48)
    positions = OnePeace(dict(embed_dim=16, depth=2, num_heads=2, ffn_dim=24), **options)
    positions = positions.adapters["image"].pos_embed
    assert torch.equal(positions[1:], sine_positions((3, 3), 16))
    assert positions.requires_grad
    assert 0 < positions[0].abs().max() < 0.1  # CLS
