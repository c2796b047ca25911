import copy

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement

from mmonepeace.models import MultimodalDataPreprocessor
from mmonepeace.models.augmentation import BatchAugmentation
from mmonepeace.spec import CLIP_MEAN, CLIP_STD, PAD_ID, num_audio_frames


def images(count, side=16):
    return [torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for _ in range(count)]


def run(**inputs):
    return MultimodalDataPreprocessor()({"inputs": inputs})["inputs"]


def test_images_are_normalised_by_the_clip_statistics():
    samples = images(2)
    batch = run(image=samples)["image"]
    assert batch.dtype == torch.float32
    for c in range(3):
        expected = (torch.stack(samples)[:, c] / 255 - CLIP_MEAN[c]) / CLIP_STD[c]
        torch.testing.assert_close(batch[:, c], expected)


def test_other_statistics_are_arguments_of_a_config():
    config = dict(
        type="mmonepeace.MultimodalDataPreprocessor", image_mean=[0, 0, 0], image_std=[1, 1, 2]
    )
    batch = MODELS.build(config)({"inputs": {"image": images(1)}})["inputs"]["image"]
    assert batch[:, :2].max() > 0.9
    assert batch[:, 2].max() <= 0.5


def test_a_model_in_half_precision_normalises_no_worse():
    samples = images(2)
    half = copy.deepcopy(MultimodalDataPreprocessor()).to(torch.bfloat16)
    assert half({"inputs": {"image": samples}})["inputs"]["image"].equal(
        run(image=samples)["image"]
    )


def test_texts_are_padded_at_the_right():
    rows = [torch.tensor([7, 8, 2]), torch.tensor([2]), torch.tensor([9, 2])]
    batch, pad = run(text=rows)["text"]
    assert batch.dtype == torch.int64
    assert batch.tolist() == [[7, 8, 2], [2, PAD_ID, PAD_ID], [9, 2, PAD_ID]]
    assert np.array_equal(pad, batch == PAD_ID)


def test_audio_is_padded_with_zeros_and_frames_are_marked():
    lengths = [16_000, 24_000, 17_123]
    clips = [torch.randn(n) for n in lengths]
    waves, pad, same = run(audio=clips)["audio"]
    assert waves.shape == (3, 24_000)
    assert pad.shape == (3, num_audio_frames(24_000))
    assert pad.dtype == torch.bool
    assert np.array_equal(pad, same)
    for wave, row, clip in zip(waves, pad, clips, strict=True):
        assert wave[: len(clip)].equal(clip)
        assert not wave[len(clip) :].any()
        frames = num_audio_frames(len(clip))
        assert not row[:frames].any()
        assert row[frames:].all()


def test_padding_changes_nothing_of_a_sample():
    short, long = torch.randn(16_000), torch.randn(20_000)
    alone, *_ = run(audio=[short])["audio"]
    together, *_ = run(audio=[long, short])["audio"]
    assert together[1, :16_000].equal(alone[0])


def test_batches_pass_as_lists_do():
    samples = {
        "image": images(2),
        "text": [torch.tensor([5, 2])] * 2,
        "audio": list(torch.randn(2, 16_000)),
        "label": [torch.tensor(3), torch.tensor(4)],
    }
    from_lists = run(**samples)
    from_batches = run(**{name: torch.stack(x) for name, x in samples.items()})
    torch.testing.assert_close(from_lists, from_batches, rtol=0, atol=0)
    assert from_lists["label"].tolist() == [3, 4]
    assert not from_batches["audio"][1].any()


def test_data_samples_are_optional_and_kept():
    preprocess = MultimodalDataPreprocessor()
    assert preprocess({"inputs": {}}) == {"inputs": {}, "data_samples": None}
    sample = BaseDataElement(metainfo=dict(text="a"))
    data = {"inputs": {"image": images(1)}, "data_samples": [sample]}
    assert preprocess(data, training=True)["data_samples"][0].text == "a"
    assert data["inputs"]["image"][0].dtype == torch.uint8  # the input is not changed


def test_kept_positions_are_padded_and_passed_on_only_where_there_are_any():
    rows = [np.array([0, 2, 5]), np.array([0])]
    data = {
        "inputs": {"image": images(2)},
        "keeps": {"alone": {"image": rows}, "joint": {"text": rows[::-1], "image": rows[:1] * 2}},
    }
    keeps = MultimodalDataPreprocessor()(data)["keeps"]
    assert keeps["alone"]["image"][0].dtype == torch.int64
    for x in range(2):  # a tensor, and an array
        assert keeps["alone"]["image"][x].tolist() == [[0, 2, 5], [0, -1, -1]]
        assert keeps["joint"]["text"][x].tolist() == [[0, -1, -1], [0, 2, 5]]
        assert keeps["joint"]["image"][x].tolist() == [[0, 2, 5]] * 2
    assert "keeps" not in MultimodalDataPreprocessor()({"inputs": data["inputs"]})
    tensors = {"alone": {"image": [torch.from_numpy(row) for row in rows]}}
    again = MultimodalDataPreprocessor()(data | {"keeps": tensors})["keeps"]
    assert again["alone"]["image"][0].equal(keeps["alone"]["image"][0])


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"image .*\(3, 16, 16\), \(3, 32, 32\).*LoadImage"):
        run(image=images(1) + images(1, 32))
    with pytest.raises(TypeError, match=r"torch\.float32, expected uint8"):
        run(image=torch.rand(1, 3, 16, 16))


@pytest.mark.gpu
def test_everything_is_on_the_device_of_the_model():
    preprocess = MultimodalDataPreprocessor().to("cuda")
    clips = [torch.randn(16_000), torch.randn(20_000)]
    keeps = {"alone": {"image": [np.array([0, 1]), np.array([0])]}}
    text = [torch.tensor([5, 6, 2]), torch.tensor([7, 2])]
    given = {"image": images(2), "text": text, "audio": clips}
    batch = preprocess({"inputs": given, "keeps": keeps})
    inputs = batch["inputs"]
    assert inputs["image"].is_cuda
    for *parts, on_cpu in (inputs["text"], inputs["audio"], batch["keeps"]["alone"]["image"]):
        assert all(part.is_cuda for part in parts)
        assert isinstance(on_cpu, np.ndarray)
    moved = preprocess({"inputs": {"text": [ids.cuda() for ids in text]}})["inputs"]["text"]
    assert moved[1] is None, "the CPU would wait"


AUGMENTATION = dict(
    rotation=10, zoom=1.2, aspect=1.1, shear=0.1, shift=0.1, flip=0.5, hue=30,
    saturation=[0.5, 1.5], grey=0.2, contrast=1.5, brightness=0.1, invert=0.2, cover=0.5,
)  # fmt: skip


def test_images_of_training_are_augmented_by_the_generator_of_torch():
    preprocess = MultimodalDataPreprocessor(augmentation=AUGMENTATION)
    data = {"inputs": {"image": images(8)}}

    def batch(seed, training=True):
        torch.manual_seed(seed)
        return preprocess(data, training)["inputs"]["image"]

    assert batch(0).equal(batch(0))
    assert not batch(0).equal(batch(1))
    assert batch(0, training=False).equal(run(image=data["inputs"]["image"])["image"])


def test_the_second_image_of_a_sample_changes_as_the_first():
    preprocess = MultimodalDataPreprocessor(augmentation=AUGMENTATION | {"flip": 0.5})
    first = images(8)
    inputs = preprocess({"inputs": {"image": first, "image_2": first}}, True)["inputs"]
    assert inputs["image"].equal(inputs["image_2"])
    assert not inputs["image"].equal(preprocess({"inputs": {"image": first}})["inputs"]["image"])
    # What is drawn afterwards is not what was drawn before.
    again = preprocess({"inputs": {"image": first, "image_2": first}}, True)["inputs"]
    assert not again["image"].equal(inputs["image"])


def test_candidates_of_a_sample_follow_each_other():
    texts = [[torch.tensor([5, 6, 2]), torch.tensor([7, 2])], [torch.tensor([8, 2])] * 2]
    expected = torch.tensor([[5, 6, 2], [7, 2, 1], [8, 2, 1], [8, 2, 1]])
    assert run(text=texts)["text"][0].equal(expected)


def test_augmentation_that_changes_nothing():
    batch = torch.rand(4, 3, 16, 20)
    torch.testing.assert_close(BatchAugmentation()(batch.clone()), batch, rtol=0, atol=1e-5)


def test_a_flip_a_negative_and_no_colour_are_these():
    batch = torch.rand(4, 3, 16, 20)
    same = dict(rtol=0, atol=1e-5)
    torch.testing.assert_close(BatchAugmentation(flip=1.0)(batch), batch.flip(3), **same)
    torch.testing.assert_close(BatchAugmentation(invert=1.0)(batch), 1 - batch, **same)
    grey = BatchAugmentation(grey=1.0)(batch)
    torch.testing.assert_close(grey[:, 0], grey[:, 2], **same)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close(grey[:, 0], (batch * weights).sum(1), **same)


def test_grey_pixels_have_no_hue_and_a_cover_is_of_one_colour():
    grey = torch.rand(8, 1, 16, 16).expand(-1, 3, -1, -1)
    augment = BatchAugmentation(hue=180, saturation=(0, 2))
    torch.testing.assert_close(augment(grey), grey, rtol=0, atol=1e-5)
    covered = BatchAugmentation(cover=1.0)(torch.ones(16, 3, 16, 16))
    colours = [len(x.flatten(1).unique(dim=1).t()) for x in covered]
    assert max(colours) == 2  # white, and that of its rectangle


def test_a_crop_is_at_a_random_place_inside_the_image():
    torch.manual_seed(0)
    rows, columns = torch.arange(10.0) / 255, torch.arange(16.0) / 255
    image = torch.stack([rows[:, None].expand(10, 16), columns.expand(10, 16), torch.zeros(10, 16)])
    crops = BatchAugmentation(size=(4, 8))(image.expand(64, -1, -1, -1)) * 255
    assert crops.shape == (64, 3, 4, 8)
    first = crops[:, :2, 0, 0]  # row and column of the corner, as they need not be whole
    for axis, (size, places) in enumerate(zip((4, 8), (7, 9), strict=True)):
        steps = crops[:, axis].diff(dim=1 + axis)
        torch.testing.assert_close(steps, torch.ones_like(steps), rtol=0, atol=1e-3)
        assert -1e-3 <= first[:, axis].min() < 1
        assert places - 2 < first[:, axis].max() <= places - 1 + 1e-3, size


def test_a_turn_of_an_image_that_is_not_square_keeps_its_angles():
    torch.manual_seed(0)
    augment = BatchAugmentation(rotation=90)
    moves = augment._moves(16, (20, 40), (20, 40))
    in_pixels = moves[:, :, :2] * torch.tensor([40.0, 20.0])[:, None] / torch.tensor([40.0, 20.0])
    torch.testing.assert_close(in_pixels @ in_pixels.mT, torch.eye(2).expand(16, 2, 2))


@pytest.mark.parametrize("size", [None, (24, 16)])
def test_labels_move_with_their_images(size):
    torch.manual_seed(0)
    values = torch.randint(0, 4, (8, 1, 4, 5)).repeat_interleave(10, 2).repeat_interleave(10, 3)
    options = dict(rotation=20, zoom=1.3, aspect=1.2, shear=0.1, shift=0.2, flip=0.5, size=size)
    augment = BatchAugmentation(**options)
    state = torch.get_rng_state()
    images, labels = augment.with_labels(values.expand(-1, 3, -1, -1) / 4, values)
    seen = images[:, :1] * 4
    whole = (seen - seen.round()).abs() < 1e-4  # not between two values
    inside = labels != 255
    assert whole.float().mean() > 0.7
    assert 0.5 < inside.float().mean() < 1
    assert (seen.round() == labels)[whole & inside].all()
    assert labels.dtype == values.dtype
    torch.set_rng_state(state)
    shrunk = augment.with_labels(values.expand(-1, 3, -1, -1) / 4, values, stride=2)[1]
    assert shrunk.shape[2:] == torch.Size(side // 2 for side in labels.shape[2:])
    corners = torch.stack([labels[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    assert (shrunk == corners)[:, (corners == corners[0]).all(0)].all()  # where a square has one


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_a_step_moves_nothing(dtype):
    labels = torch.randint(0, 9, (2, 1, 320, 320), dtype=torch.uint8)
    augment = BatchAugmentation(rotation=10, zoom=1.3, hue=30, size=(256, 256))
    torch.manual_seed(0)
    expected = augment.with_labels(labels.expand(-1, 3, -1, -1) / 9, labels)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype):
        made = augment.with_labels(labels.expand(-1, 3, -1, -1) / 9, labels)
    for one, other in zip(made, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.equal(other)


def test_covered_labels_are_ignored():
    torch.manual_seed(0)
    labels = torch.ones(8, 1, 16, 16, dtype=torch.uint8)
    images, kept = BatchAugmentation(cover=1.0).with_labels(torch.ones(8, 3, 16, 16), labels, 1, 9)
    assert kept.unique().tolist() == [1, 9]
    assert ((images == 1).all(1, keepdim=True) == (kept == 1)).all()
    with pytest.raises(ValueError, match=r"images have \[16, 16\] pixels, expected multiples"):
        BatchAugmentation().with_labels(images, labels, stride=5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(zoom=0.5), "zoom is 0.5, expected a factor of 1 or more"),
        (dict(rotation=-1), "rotation is -1, expected 0 or more"),
        (dict(flip=1.5), "flip is 1.5, expected 0 to 1"),
        (dict(size=64), r"size is 64, expected rows and columns"),
        (dict(size=(4.0, 4.0)), r"size is \(4.0, 4.0\), expected rows and columns"),
        (dict(size=(4, 0)), r"size is \(4, 0\), expected rows and columns"),
        (dict(saturation=(2, 1)), r"saturation is \(2, 1\), expected 0 <= low <= high"),
    ],
)
def test_options_of_augmentation_in_range(options, says):
    with pytest.raises(ValueError, match=says):
        MultimodalDataPreprocessor(augmentation=options)
