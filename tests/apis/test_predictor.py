import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.apis import Predictor
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.datasets import audio_io, image_io
from mmonepeace.datasets.tokenizer import train
from mmonepeace.models import OnePeaceVideoClassifier
from tests import official

TEXTS = ["what is this? answer: a dog", "the cat left of the tree", "no", "yes", "rain"]
TOKENIZER = train(TEXTS * 3, 400)


def predictor(task, folder, **options):
    """Of an official file, with its tokenizer beside it."""
    torch.save(official.fine_tuned(task), folder / "ft.pt")
    TOKENIZER.save(folder / "tokenizer.json")
    return Predictor.from_checkpoint(folder, device="cpu", **options)


@pytest.fixture
def images(tmp_path):
    """Landscape, portrait and square, larger and smaller than the model's images."""
    rng = np.random.default_rng(0)
    paths = []
    for i, size in enumerate([(200, 90), (50, 130), (96, 96)]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def clips(tmp_path):
    rng = np.random.default_rng(1)
    paths = [tmp_path / "short.wav", tmp_path / "long.wav"]
    for path, seconds in zip(paths, (1.5, 16.0), strict=True):
        soundfile.write(path, 0.2 * rng.standard_normal(int(16000 * seconds)), 16000)
    return paths


def pixels(path, side=96):
    return image_io.to_tensor(image_io.resize(image_io.to_rgb(path), side, keep_ratio=False))


def ids(text, lower=True):
    return torch.tensor(TOKENIZER.encode([text], 510, lower)[0])


def outputs(model, **inputs):
    """What the model computes for one sample, by the parts that training uses."""
    batch = model.data_preprocessor({"inputs": {k: [v] for k, v in inputs.items()}})["inputs"]
    with torch.no_grad():
        return model(batch)[0]


def test_answers_are_the_best_classes_of_the_model(tmp_path, images):
    names = [f"answer {i}" for i in range(11)]
    predict = predictor("vqa", tmp_path, classes=names)
    questions = ["What is this?", "the CAT left of the tree", "rain"]
    results = predict.answer(questions, images=images, top_k=3)
    for path, question, result in zip(images, questions, results, strict=True):
        logits = outputs(predict.model, image=pixels(path), text=ids(question.lower()))
        best = logits.topk(3).indices.tolist()
        assert [r.label for r in result] == [names[i] for i in best]
        assert [r.score for r in result] == pytest.approx(logits.sigmoid()[best].tolist(), abs=1e-5)
    assert predict.task == "answer"
    with pytest.raises(ValueError, match=r"use \.answer"):
        predict.classify(images=images)
    with pytest.raises(ValueError, match="knows its answers"):
        predict.answer(questions, images=images, candidates=[["a"]] * 3)
    with pytest.raises(ValueError, match="image and text together; text given"):
        predict.answer(questions)


def test_candidates_are_ranked_in_the_case_they_are_written_in(tmp_path, clips):
    predict = predictor("aqa", tmp_path)
    candidates = [["Rain", "a Dog", "yes", "no"]] * 2
    results = predict.answer(["What is This?"] * 2, audio=clips, candidates=candidates)
    for path, result in zip(clips, results, strict=True):
        wave = audio_io.fit_length(audio_io.standardise(audio_io.load_audio(path)), 15.0)
        texts = [ids(f"What is This? answer: {c}", lower=False) for c in candidates[0]]
        scores = outputs(predict.model, audio=torch.from_numpy(wave), text=texts)
        order = scores.argsort(descending=True).tolist()
        assert [r.label for r in result] == [candidates[0][i] for i in order]
        assert sum(r.score for r in result) == pytest.approx(1)
    with pytest.raises(ValueError, match="ranks 4 candidates: give them"):
        predict.answer(["?"] * 2, audio=clips)
    with pytest.raises(ValueError, match="ranks 4 candidates of each"):
        predict.answer(["?"] * 2, audio=clips, candidates=[["a", "b"]] * 2)
    errors = {}
    results = predict.answer(
        ["what? " * 1000, "?"], audio=clips, candidates=candidates, errors=errors
    )
    assert not results[0]
    assert len(results[1]) == 4
    assert "its candidates are cut off, and alike" in errors[0]


def test_an_empty_text_is_refused(tmp_path, images, clips):
    four, errors = ["a", "b", "c", "d"], {}
    predict = predictor("vqa", tmp_path)
    # Nothing is left of the last one by the clean-up of training.
    found = predict.answer(["", "rain", "..."], images=images, errors=errors)
    assert [bool(answers) for answers in found] == [False, True, False]
    assert list(errors) == [0, 2]
    with pytest.raises(ValueError, match="a text is empty"):
        predict.answer([""], images=images[:1])
    predict, errors = predictor("aqa", tmp_path), {}
    predict.answer(["?", ""], audio=clips, candidates=[four, four], errors=errors)
    predict.answer(["?"], audio=clips[:1], candidates=[["a", " ", "c", "d"]], errors=errors)
    assert list(errors) == [1, 0]
    assert all("a text is empty" in said for said in errors.values())


@pytest.mark.parametrize("task", ["vggsound", "fsd50k"])
def test_sounds_by_their_beginning(task, tmp_path, clips):
    predict = predictor(task, tmp_path)
    results = predict.classify(audio=clips, top_k=9)
    for path, result in zip(clips, results, strict=True):
        wave = audio_io.fit_length(audio_io.standardise(audio_io.load_audio(path)), 15.0)
        logits = outputs(predict.model, audio=torch.from_numpy(wave))
        scores = logits.softmax(0) if task == "vggsound" else logits.sigmoid()
        expected = logits.topk(9).indices.tolist()
        assert [r.label for r in result] == list(map(str, expected))
        assert [r.score for r in result] == pytest.approx(scores[expected].tolist(), abs=1e-5)


@pytest.mark.parametrize("task", ["refcoco", "refcocog"])
def test_boxes_are_in_pixels_of_each_image(task, tmp_path, images):
    predict = predictor(task, tmp_path, batch_size=2)
    phrases = ["the cat", "rain", "a dog left of the tree"]
    boxes = predict.ground(images, phrases)
    assert boxes.dtype == np.float32
    for path, phrase, box in zip(images, phrases, boxes, strict=True):
        fractions = outputs(predict.model, image=pixels(path), text=ids(phrase))
        width, height = Image.open(path).size
        expected = fractions.numpy() * [width, height, width, height]
        np.testing.assert_allclose(box, expected, atol=1e-3)
    assert not np.allclose(boxes[0] / 2, boxes[1] / 2, atol=1)


def test_two_images_and_a_statement(tmp_path, images):
    predict = predictor("nlvr2", tmp_path)
    other = [images[1], images[2], images[0]]
    results = predict.compare(images, other, ["the cat is left"] * 3)
    for first, second, result in zip(images, other, results, strict=True):
        text = ids("the cat is left")
        logits = outputs(predict.model, image=pixels(first), image_2=pixels(second), text=text)
        expected = dict(zip(["True", "False"], logits.softmax(0).tolist(), strict=True))
        assert {r.label: r.score for r in result} == pytest.approx(expected, abs=1e-5)


def test_an_item_that_cannot_be_read_is_left_out_or_ends_it(tmp_path, images):
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [images[0], tmp_path / "broken.png", images[1]]
    predict = predictor("refcoco", tmp_path)
    with pytest.raises(ValueError, match=r"broken\.png"):
        predict.ground(paths, ["rain"] * 3)
    errors = {}
    boxes = predict.ground(paths, ["rain"] * 3, errors)
    assert list(errors) == [1]
    assert np.isnan(boxes[1]).all()
    alone = predict.ground(paths[::2], ["rain"] * 2)
    np.testing.assert_allclose(boxes[::2], alone, atol=1e-3)


def test_names_of_classes_from_where_they_are(tmp_path, clips):
    names = [f"sound {i}" for i in range(9)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert predictor("vggsound", tmp_path).classes == names
    assert predictor("vggsound", tmp_path, classes=names[::-1]).classes == names[::-1]
    with pytest.raises(ValueError, match="1 names of classes, the model has 9"):
        predictor("vggsound", tmp_path, classes=["one"])


def test_a_retrieval_file_is_not_a_predictor(tmp_path):
    with pytest.raises(CheckpointError, match="Use Embedder"):
        predictor("coco", tmp_path)


def test_half_precision(tmp_path, images):
    exact = predictor("refcoco", tmp_path).ground(images, ["rain"] * 3)
    half = predictor("refcoco", tmp_path, dtype="bf16").ground(images, ["rain"] * 3)
    np.testing.assert_allclose(half, exact, atol=6)


def test_a_converted_file_says_the_same(tmp_path, images):
    predict = predictor("refcocog", tmp_path)
    expected = predict.ground(images, ["rain"] * 3)
    checkpoint.convert_file(tmp_path / "ft.pt", tmp_path / "own/own.safetensors", "full")
    own = Predictor.from_checkpoint(tmp_path / "own", device="cpu", tokenizer=TOKENIZER)
    # The way of pooling is in no weight.
    np.testing.assert_allclose(own.ground(images, ["rain"] * 3), expected, atol=1e-3)


def test_arguments_that_are_no_items_are_refused(tmp_path, images, clips):
    aqa = predictor("aqa", tmp_path)
    four = ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="text is one str"):
        aqa.answer("q", audio=clips[:1], candidates=[four])
    for questions, candidates in [
        (["q"], [four, four]), (["q", "q"], [four]), (["q"], ["abcd"]), (["q"], four)
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="a list of 4 strings for each"):
            aqa.answer(questions, audio=clips[: len(questions)], candidates=candidates)
    with pytest.raises(TypeError, match="a text is None"):
        aqa.answer(["q"], audio=clips[:1], candidates=[["a", None, "c", "d"]])
    clip = (np.zeros(16000, np.float32), 16000)
    with pytest.raises(ValueError, match=r"audio is one tuple; give a list"):
        predictor("vggsound", tmp_path).classify(audio=clip)
    with pytest.raises(ValueError, match="takes audio; nothing given"):
        predictor("vggsound", tmp_path).classify()
    refcoco = predictor("refcoco", tmp_path)
    with pytest.raises(TypeError, match=r"a text is \['a', 'b'\]"):
        refcoco.ground(images[:1], [["a", "b"]])
    with pytest.raises(ValueError, match="batch_size is 0"):
        predictor("refcoco", tmp_path, batch_size=0)


def test_items_from_generators(tmp_path, clips):
    predict = predictor("aqa", tmp_path)
    candidates = ["a dog", "rain", "yes", "no"]
    expected = predict.answer(["q", "q"], audio=clips, candidates=[candidates] * 2)
    found = predict.answer(
        (q for q in "qq"), audio=iter(clips), candidates=(iter(candidates) for _ in clips)
    )
    assert found == expected


def test_videos_by_the_mean_probability_of_their_views(tmp_path):
    torch.manual_seed(0)
    arch = dict(embed_dim=16, depth=2, num_heads=2, ffn_dim=24)
    backbone = dict(arch=arch, img_size=32, num_frames=4, layer_scale_init=0.5, trained=None)
    model = OnePeaceVideoClassifier(backbone, dict(num_classes=3), interval=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.classes = ("a", "b", "c")
    path = tmp_path / "model.safetensors"
    weights = {k.removeprefix("backbone."): v for k, v in model.state_dict().items()}
    checkpoint.write(path, checkpoint.Conversion(weights, model.metadata()))
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(x) for x in rng.integers(0, 255, (20, 24, 48, 3), np.uint8)]
    video = tmp_path / "v.webp"
    frames[0].save(video, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    predictor = Predictor.from_checkpoint(path, device="cpu")
    assert (predictor.task, predictor.inputs) == ("classify", ("video",))
    in_memory, from_file = predictor.classify(videos=[frames, str(video)])
    assert [p.label for p in in_memory] == [p.label for p in from_file]
    np.testing.assert_allclose(
        [p.score for p in in_memory], [p.score for p in from_file], rtol=1e-5
    )
    assert sum(p.score for p in in_memory) == pytest.approx(1)
    # By hand: clips begin at 2, 6 and 10 of 20 frames; three squares of each.
    expected = torch.zeros(3)
    for start in (2, 6, 10):
        for left in (0, 12, 24):
            box = (left, 0, left + 24, 24)
            clip = torch.stack(
                [
                    image_io.to_tensor(frames[start + 2 * i].resize((32, 32), Image.BICUBIC, box))
                    for i in range(4)
                ]
            )
            expected += outputs(model, video=clip).softmax(0) / 9
    found = {p.label: p.score for p in in_memory}
    np.testing.assert_allclose([found[x] for x in "abc"], expected, rtol=1e-4)
    errors = {}
    assert predictor.classify(videos=[tmp_path / "no.gif", frames], errors=errors)[0] == []
    assert "no such file" in errors[0]
    with pytest.raises(ValueError, match="the model takes video; image given"):
        predictor.classify(images=[frames[0]])
