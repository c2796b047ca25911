import pytest
import torch

from mmonepeace.layers.adapters import audio
from mmonepeace.layers.cpu import audio_chunks
from mmonepeace.spec import num_audio_frames
from tests.layers.test_adapters import make_audio


@pytest.mark.parametrize("padding", ["masked", "compat"])
@pytest.mark.parametrize(("frames_at_once", "chunks"), [(8, 25), (64, 4), (10_000, 1)])
def test_audio_features_in_chunks_equal_those_of_complete_clips(
    frames_at_once, chunks, padding, monkeypatch
):
    monkeypatch.setattr(audio_chunks, "_CHUNK_FRAMES", frames_at_once)
    adapter = make_audio(padding=padding)
    samples = torch.tensor([16_000, 9_000, 400, 12_345])
    frames = torch.tensor([num_audio_frames(n) for n in samples.tolist()])
    pad = torch.arange(frames.max()) >= frames[:, None]
    waves = torch.randn(4, 16_000).masked_fill(torch.arange(16_000) >= samples[:, None], 0)
    calls, results = [], []

    def counted(features, *args):
        return audio_chunks.chunked_audio_features(
            lambda x: calls.append(x.shape) or features(x), *args
        )

    for kernel in (counted, None):
        monkeypatch.setattr(audio, "cpu_kernel", lambda *_, kernel=kernel: kernel)
        features, *_ = adapter.features(waves, pad)
        seen = features if padding == "compat" else features.masked_fill(pad[..., None], 0)
        weights = adapter.extractor.parameters()
        results.append([seen, *torch.autograd.grad(seen.square().sum(), weights)])
    assert len(calls) == chunks
    for chunked, complete in zip(*results, strict=True):
        torch.testing.assert_close(chunked, complete, rtol=1e-4, atol=1e-4)
