import pytest
import torch

from mmonepeace.layers.adapters import ImageAdapter
from mmonepeace.spec import Arch

ARCH = Arch(16, 2, 2, 24)


def make_adapter(side=4):
    adapter = ImageAdapter(ARCH, side, 1).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


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
