"""Initial weights."""

from mmengine.logging import print_log
from torch import Tensor, nn

from mmonepeace import checkpoint
from mmonepeace.registry import WEIGHT_INITIALIZERS


def reset_weight(parameter: Tensor, std: float) -> None:
    """Draw a parameter from the official initial distribution: a normal truncated at one std."""
    nn.init.trunc_normal_(parameter, std=std, a=-std, b=std)


@WEIGHT_INITIALIZERS.register_module()
class PretrainedAudioExtractor:
    """For `init_cfg` of `OnePeace`: the audio extractor of a WavLM, HuBERT or wav2vec 2.0 model.

    Args:
        checkpoint: file, see `checkpoint.load_audio_extractor`.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        """Load it.

        Raises:
            mmonepeace.checkpoint.CheckpointError: if the file cannot be used or does not fit.
        """
        loaded = checkpoint.load_audio_extractor(module, self.checkpoint)
        print_log(f"{self.checkpoint}: {len(loaded)} tensors loaded", logger="current")
