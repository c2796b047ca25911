import pytest

from mmonepeace.layers.adapters.image import hmlp_stem
from mmonepeace.models import OnePeace
from mmonepeace.spec import Arch


def test_only_what_has_the_hmlp_stem_needs_a_width_that_is_a_multiple_of_4():
    for width in (30, 45):
        arch = Arch(width, depth=1, num_heads=5, ffn_dim=20)
        OnePeace(arch, modalities=dict(text=dict(vocab_size=9)))
        with pytest.raises(ValueError, match=f"hmlp stem.*{width} is not a multiple of 4"):
            OnePeace(arch)
        with pytest.raises(ValueError, match="multiple of 4"):
            hmlp_stem(width)
