import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from timm.data.auto_augment import rand_augment_transform

from mmonepeace.datasets import AugmentImagePair, BlurImage, RandAugment, RandomErasing
from mmonepeace.datasets.image_augmentation import OPERATIONS
from mmonepeace.datasets.seeded_dataset import seeded
from mmonepeace.spec import IMAGE_MEAN

SEED = (3, 1, 4)
OFF = dict(jitter_probability=0, blur_probability=0, flip=0, num_ops=0)


def picture(height=40, width=56, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    )


def record(seed=SEED, **more):
    return {"inputs": {"image": picture(), **more}, "seed": seed}


def pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "transform",
    [RandAugment(), RandomErasing(1.0), BlurImage(), AugmentImagePair()],
    ids=lambda t: type(t).__name__,
)
def test_a_sample_depends_on_its_seed_alone(transform):
    def change(*seed):
        return transform(record(seed, image_2=picture(seed=1)))["inputs"]

    first = [change(0, i) for i in range(6)]
    np.random.seed(9)
    torch.manual_seed(9)
    again = [change(0, i) for i in range(6)]
    assert all(torch.equal(a[key], b[key]) for a, b in zip(first, again, strict=True) for key in a)
    assert len({bytes(x["image"].numpy()) for x in first}) > 1
    state = np.random.get_state()[1].copy()
    change(0, 1)
    assert (np.random.get_state()[1] == state).all()


def test_rand_augment_is_that_of_timm_in_rgb():
    """Both of the pipelines, of ours and of the MM libraries, give what timm gives."""
    image = picture()
    options = dict(img_mean=(123, 117, 104), interpolation=Image.Resampling.BICUBIC)
    timms = rand_augment_transform("rand-m9-mstd0.5-inc1", options)
    changed = 0
    for i in range(12):
        with seeded(i):
            expected = np.asarray(timms(pil(image)))
        with seeded(i):
            results = RandAugment()({"img": image.permute(1, 2, 0).numpy()[..., ::-1]})
        assert np.array_equal(results["img"][..., ::-1], expected)
        assert results["img"].flags["C_CONTIGUOUS"]
        changed += not np.array_equal(expected, image.permute(1, 2, 0).numpy())
    assert changed > 6


def test_erasing_covers_one_rectangle_and_nothing_else():
    image = picture(60, 80)
    colours = {"const": [round(value) for value in IMAGE_MEAN]}
    for mode in ("const", "rand", "pixel"):
        transform = RandomErasing(1.0, mode)
        erased = transform({"inputs": {"image": image}, "seed": SEED})["inputs"]["image"]
        rows, columns = np.nonzero((erased != image).any(0).numpy())
        box = erased[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert 0.01 < box[0].numel() / image[0].numel() < 0.36
        if mode != "pixel":
            assert (box == box[:, :1, :1]).all()
        if mode == "const":
            assert box[:, 0, 0].tolist() == colours["const"]
    assert torch.equal(RandomErasing(0.0)(record())["inputs"]["image"], picture())


def test_a_blur_is_pillows_within_the_limits_of_the_radius():
    image = picture()
    blurred = BlurImage(1.0, (1.5, 1.5))(record())["inputs"]["image"]
    assert torch.equal(blurred, torch.from_numpy(
        np.array(pil(image).filter(ImageFilter.GaussianBlur(1.5))).transpose(2, 0, 1)
    ))  # fmt: skip
    changed = [
        not torch.equal(BlurImage(0.5, (1, 2))(record((i,)))["inputs"]["image"], image)
        for i in range(200)
    ]
    assert 70 < sum(changed) < 130


def test_pillow_images_stay_pillow_images():
    results = BlurImage(1.0)({"inputs": {"image": pil(picture())}, "seed": SEED})
    assert isinstance(results["inputs"]["image"], Image.Image)


def mirrored(results, first, second):
    inputs = results["inputs"]
    return tuple(
        torch.equal(inputs[key], image.flip(2))
        for key, image in (("image", first), ("image_2", second))
    )


@pytest.mark.parametrize(("independent", "kinds"), [(False, 2), (True, 4)])
def test_two_images_are_mirrored_together(independent, kinds):
    first, second = picture(), picture(seed=1)
    transform = AugmentImagePair(**{**OFF, "flip": 0.5}, independent_flips=independent)
    found = {mirrored(transform(record((i,), image_2=second)), first, second) for i in range(40)}
    assert len(found) == kinds


def test_two_images_have_changes_of_their_own():
    transform = AugmentImagePair(flip=0, op_probability=1)
    results = transform(record(image_2=picture()))
    assert not torch.equal(results["inputs"]["image"], results["inputs"]["image_2"])


def test_nothing_changes_where_all_is_off():
    results = AugmentImagePair(**OFF)(record(image_2=picture(seed=1)))
    assert torch.equal(results["inputs"]["image"], picture())
    assert torch.equal(results["inputs"]["image_2"], picture(seed=1))


def test_operations_have_the_official_strength():
    flat = Image.new("RGB", (64, 64), (100, 50, 200))
    grey = (128, 128, 128)
    assert OPERATIONS["brightness"](flat, 0.7, 1).getpixel((5, 5)) == (136, 68, 255)
    dot = Image.new("RGB", (64, 64))
    dot.putpixel((30, 32), (255, 255, 255))
    assert OPERATIONS["translate_x"](dot, 0.7, 1).getpixel((37, 32)) == (255, 255, 255)
    assert OPERATIONS["translate_y"](dot, 0.7, -1).getpixel((30, 25)) == (255, 255, 255)
    for name in ("translate_x", "shear_x", "shear_y", "rotate"):
        moved = np.asarray(OPERATIONS[name](flat, 0.7, 1))
        assert {tuple(c) for c in moved[[0, 0, -1, -1], [0, -1, 0, -1]]} & {grey}, name
    sheared = np.asarray(OPERATIONS["shear_x"](flat, 0.7, 1))
    filled = (sheared[-1] == grey).all(-1).sum()
    assert filled == pytest.approx(0.21 * 63.5, abs=1)
    line = Image.new("RGB", (65, 65))
    line.paste((255, 255, 255), (32, 0, 33, 65))
    turned = np.asarray(OPERATIONS["rotate"](line, 0.7, 1))[..., 0]
    top, bottom = turned[12, 20:45].argmax() + 20, turned[52, 20:45].argmax() + 20
    assert np.degrees(np.arctan(abs(bottom - top) / 40)) == pytest.approx(21, abs=1.5)
    assert OPERATIONS["identity"](dot, 0.7, 1) is dot
    assert len(OPERATIONS) == 9


def test_colours_stay_within_their_limits():
    flat = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    transform = AugmentImagePair(**{**OFF, "jitter_probability": 1})
    values = [int(transform({"inputs": {"image": flat}, "seed": (i,)})["inputs"]["image"][0, 0, 0])
              for i in range(100)]  # fmt: skip
    assert 60 <= min(values) < 70
    assert 130 < max(values) <= 140


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandAugment("rand-q5"), "policy is 'rand-q5'"),
        (lambda: RandAugment("auto"), "policy is 'auto'"),
        (lambda: RandomErasing(2.0), "probability is 2.0"),
        (lambda: RandomErasing(mode="noise"), "mode is 'noise'"),
        (lambda: RandomErasing(area=(0.5, 0.2)), "area"),
        (lambda: BlurImage(radius=(2, 1)), "radius"),
        (lambda: AugmentImagePair(level=11), "level 11"),
        (lambda: AugmentImagePair(flip=-1), "flip is -1"),
    ],
)
def test_mistakes_are_told(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_has_no_image_says_so():
    with pytest.raises(KeyError, match="no image"):
        RandAugment()({"inputs": {}})
    with pytest.raises(KeyError, match="no image"):
        BlurImage()({"inputs": {"text": 1}, "seed": SEED})
