"""The audio extractor of another model: convolutions of a wav2vec 2.0, HuBERT or WavLM file.

The extractor of ONE-PEACE is theirs in layer-norm mode, so that weights need new names only.

Source: table 18 of the paper, where it begins with that of WavLM.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmonepeace.checkpoint.errors import CheckpointError, StateDict, prefix_errors
from mmonepeace.checkpoint.integrity import refuse_non_finite
from mmonepeace.checkpoint.reading import read
from mmonepeace.spec import AUDIO_CONVS

# A layer's parts by the names of fairseq, and by those of transformers and torchaudio.
_PARTS = {"0": "conv", "conv": "conv", "2.1": "norm", "layer_norm": "norm"}
_KEY = re.compile(
    r"(?:.*\.)?feature_extractor\.conv_layers\.(\d+)\.(0|conv|2\.1|layer_norm)\.(weight|bias)"
)


def audio_extractor_weights(weights: Mapping[str, Tensor]) -> StateDict:
    """The extractor of a wav2vec 2.0, HuBERT or WavLM model, under our names.

    Args:
        weights: names of fairseq, WavLM's own files, transformers or torchaudio.

    Returns:
        `I.conv.weight` (C, C', kernel), `I.norm.weight` and `I.norm.bias` (C,) of 7 layers I.

    Raises:
        CheckpointError: if there is no such extractor, or it has no LayerNorm after each convolution
            (group-norm mode), or convolutions have biases.
    """
    found: StateDict = {}
    for key, value in weights.items():
        if match := _KEY.fullmatch(key):
            found[f"{int(match[1])}.{_PARTS[match[2]]}.{match[3]}"] = value
    layers = {int(name.split(".")[0]) for name in found}
    if layers != set(range(len(AUDIO_CONVS))):
        raise CheckpointError(
            f"has {len(layers)} layers feature_extractor.conv_layers.*, expected {len(AUDIO_CONVS)}: "
            "not a wav2vec 2.0, HuBERT or WavLM model."
        )
    hint = "Take a model with layer norms and no such biases, such as WavLM Large."
    if biases := [name for name in found if name.endswith("conv.bias")]:
        raise CheckpointError(
            f"{len(biases)} convolutions of its extractor have biases, ours have none. {hint}"
        )
    expected = [
        f"{i}.{part}" for i in layers for part in ("conv.weight", "norm.weight", "norm.bias")
    ]
    if missing := [name for name in expected if name not in found]:
        raise CheckpointError(
            f"its extractor lacks {len(missing)} of {len(expected)} tensors, such as {missing[0]}: it "
            f"normalises groups, not layers. {hint}"
        )
    return found


def load_audio_extractor(model: nn.Module, path: str | Path) -> list[str]:
    """Initialise the audio extractor from a file of another model.

    Args:
        model: `OnePeace`, or a model that has one as `backbone`; its audio adapter takes waveforms.
        path: see `read`.

    Returns:
        names of the model's parameters that were loaded, less `backbone.`.

    Raises:
        CheckpointError: if the model has no such extractor, or the file cannot be used or does not fit.
    """
    backbone: Any = getattr(model, "backbone", model)
    adapter = dict(backbone.adapters.items()).get("audio")
    extractor = getattr(adapter, "extractor", None)
    if extractor is None:
        raise CheckpointError(
            f"{path}: this model has no extractor of waveforms. Build it with the modality audio and "
            "features='waveform'."
        )
    with prefix_errors(path):
        weights = audio_extractor_weights(read(path)[0])
        for name, parameter in extractor.state_dict().items():
            if weights[name].shape != parameter.shape:
                shapes = f"{tuple(weights[name].shape)} in the file, {tuple(parameter.shape)} here"
                raise CheckpointError(
                    f"extractor.{name} has shape {shapes}. Set feature_dim="
                    f"{len(weights['0.conv.weight'])} of the audio modality."
                )
        refuse_non_finite(weights)
    extractor.load_state_dict(weights)
    return [f"adapters.audio.extractor.{name}" for name in weights]
