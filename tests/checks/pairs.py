"""Healthy tables of images and audio clips with captions, and ways to break them."""

import shutil

import numpy as np
import soundfile
from PIL import Image

from tests.checks.data import Data, random_image, save


class Pairs(Data):
    """Tables of images and audio clips with captions."""

    def __init__(self, root):
        super().__init__(root)
        (root / "files").mkdir()
        for split, seeds in (("train", range(6)), ("val", range(6, 9))):
            lines = ["image\taudio\tcaption"]
            for seed in seeds:
                save(random_image(seed), root / f"files/{seed}.png")
                noise = np.random.default_rng(seed).normal(0, 0.1, 16000)
                soundfile.write(root / f"files/{seed}.wav", noise, 16000)
                lines.append(f"files/{seed}.png\tfiles/{seed}.wav\tthing {seed}")
            (root / f"{split}.tsv").write_text("\n".join(lines))

    def config(self):
        def loader(split):
            dataset = dict(
                type="mmonepeace.PairDataset",
                data_root=str(self.root),
                ann_file=f"{split}.tsv",
                columns=dict(image="image", audio="audio", text="caption"),
                pipeline=[dict(type="mmonepeace.LoadImage"), dict(type="mmonepeace.LoadAudio")],
            )
            return dict(batch_size=1, dataset=dataset)

        return dict(
            train_dataloader=loader("train"),
            val_dataloader=loader("val"),
            test_dataloader=loader("val"),
            model=dict(type="mmonepeace.OnePeacePretrainer"),
        )

    def replace(self, old, new, split="train"):
        path = self.root / f"{split}.tsv"
        path.write_text(path.read_text().replace(old, new))


PAIRS = {}


def pairs(*expected):
    def keep(fault):
        PAIRS[fault.__name__] = (fault, set(expected))
        return fault

    return keep


@pairs("table-unusable")
def no_table(data):
    (data.root / "val.tsv").unlink()


@pairs("table-unusable")
def another_column(data):
    data.replace("caption", "text")


@pairs("file-missing")
def image_gone(data):
    (data.root / "files/3.png").unlink()


@pairs("file-missing")
def audio_gone(data):
    (data.root / "files/3.wav").unlink()


@pairs("folder-missing")
def folder_gone(data):
    data.cfg.train_dataloader.dataset.data_prefix = dict(path="nowhere")


@pairs("image-unreadable")
def image_cut(data):
    (data.root / "files/3.png").write_bytes((data.root / "files/3.png").read_bytes()[:300])


@pairs("audio-unreadable")
def audio_cut(data):
    (data.root / "files/3.wav").write_bytes(b"RIFF")


@pairs("video-unreadable")
def video_cut(data):
    """One animation of six ends early; the others, and a folder of frames, are read."""
    lines = (data.root / "train.tsv").read_text().splitlines()
    rows = [f"{lines[0]}\tvideo"]
    for seed, line in enumerate(lines[1:]):
        path = data.root / f"files/{seed}.gif"
        frames = [Image.fromarray(random_image(10 * seed + i)) for i in range(3)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
        rows.append(f"{line}\tfiles/{path.name}")
    (data.root / "files/3.gif").write_bytes((data.root / "files/3.gif").read_bytes()[:300])
    (data.root / "files/4.gif").unlink()
    (data.root / "files/4.gif").mkdir()
    save(random_image(44), data.root / "files/4.gif/1.png")
    (data.root / "train.tsv").write_text("\n".join(rows))
    data.cfg.train_dataloader.dataset.columns["video"] = "video"


@pairs("image-in-alpha", "image-channels")
def logos_in_their_transparency(data):
    for seed in (3, 4):
        picture = np.insert(0 * random_image(seed), 3, random_image(seed)[..., 0], axis=2)
        save(picture, data.root / f"files/{seed}.png")


@pairs("image-channels")
def logos_on_white(data):
    logos_in_their_transparency(data)
    for name in ("train", "val", "test"):
        data.cfg[f"{name}_dataloader"].dataset.pipeline[0]["alpha"] = "white"


@pairs("audio-cut")
def audio_damaged(data):
    path = data.root / "files/3.wav"
    soundfile.write(path, soundfile.read(path)[0], 16000, format="FLAC")
    path.write_bytes(path.read_bytes()[:15000])


@pairs("audio-cut")
def a_wav_that_was_cut(data):
    path = data.root / "files/3.wav"
    path.write_bytes(path.read_bytes()[:15000])


@pairs("audio-short")
def audio_of_a_millisecond(data):
    soundfile.write(data.root / "files/3.wav", 0.1 * np.arange(16) % 1, 16000)


@pairs("audio-cancels")
def audio_whose_channels_cancel(data):
    for seed in (3, 4):
        wave = np.random.default_rng(seed).normal(0, 0.1, 16000).clip(-1, 1).astype(np.float32)
        path = data.root / f"files/{seed}.wav"
        soundfile.write(path, np.stack([wave, -wave], 1), 16000, subtype="FLOAT")


@pairs("audio-silent")
def audio_of_nothing(data):
    for seed in (3, 4):
        soundfile.write(data.root / f"files/{seed}.wav", np.zeros(16000), 16000)


@pairs("row-incomplete")
def no_caption(data):
    data.replace("thing 3", "")


@pairs("caption-empty")
def a_blank_caption(data):
    data.replace("thing 3", "  ")


@pairs("duplicate-within-split")
def pair_twice(data):
    shutil.copy(data.root / "files/3.png", data.root / "files/4.png")


@pairs("duplicate-across-splits")
def audio_in_both_in_another_format(data):
    wave, rate = soundfile.read(data.root / "files/3.wav", dtype="int16")
    soundfile.write(data.root / "files/7.wav", wave, rate, format="FLAC")


@pairs("split-shares-files")
def row_in_both(data):
    data.replace("files/7", "files/3", "val")


def as_classes(data, classes=("thing", "other")):
    """Each row with one of two classes, for a classifier."""
    for split in ("train", "val"):
        path = data.root / f"{split}.tsv"
        lines = path.read_text().splitlines()
        rows = [f"{line}\t{classes[i % 2]}" for i, line in enumerate(lines[1:])]
        path.write_text("\n".join([f"{lines[0]}\tclass", *rows]))
    for name in ("train", "val", "test"):
        dataset = data.cfg[f"{name}_dataloader"].dataset
        dataset.update(type="mmonepeace.LabelledDataset", label="class", classes=("thing", "other"))
        dataset["pipeline"] = [dict(type="LoadImageFromFile", imdecode_backend="pillow")]
        del dataset["columns"]
    data.cfg["model"] = dict(type="ImageClassifier", head=dict(num_classes=2))


@pairs("table-unusable")
def a_class_without_name_in_a_table(data):
    as_classes(data, ("thing", "else"))


@pairs("num-classes")
def a_classifier_of_imagenet(data):
    as_classes(data)
    data.cfg.model.head.num_classes = 1000


@pairs("class-absent-train")
def a_class_that_no_row_has(data):
    as_classes(data, ("thing", "thing"))


def as_labels(data, labels, values):
    """Each row with the same value as its target."""
    as_classes(data, (values, values))
    for name in ("train", "val", "test"):
        data.cfg[f"{name}_dataloader"].dataset.labels = labels


def as_phrases(data, box):
    """Each row with a phrase about its image, and a box, the same in all."""
    for split in ("train", "val"):
        path = data.root / f"{split}.tsv"
        lines = path.read_text().splitlines()
        boxes = [f"{line}\t{box}" for line in lines[1:]]
        path.write_text("\n".join([f"{lines[0]}\tregion_coord", *boxes]))
    for name in ("train", "val", "test"):
        dataset = data.cfg[f"{name}_dataloader"].dataset
        dataset.update(type="mmonepeace.BoxDataset", columns=dict(image="image", text="caption"))
        dataset["pipeline"] = [dict(type="mmonepeace.LoadImage")]
    data.cfg["model"] = dict(type="mmonepeace.OnePeaceGrounder")


@pairs("phrase-box-outside")
def a_box_beyond_its_image(data):
    as_phrases(data, "0,0,9,5000")


@pairs("phrase-box-outside")
def one_box_beyond_its_image(data):
    as_phrases(data, "0,0,9,9")
    data.replace("thing 3\t0,0,9,9", "thing 3\t-5,0,9,9")


@pairs("phrase-box-outside")
def one_box_a_little_beyond_its_image(data):
    as_phrases(data, "0,0,9,9")
    data.replace("thing 3\t0,0,9,9", "thing 3\t-2,0,60,40")


@pairs("phrase-box-normalised")
def one_box_in_fractions(data):
    as_phrases(data, "0,0,9,9")
    data.replace("thing 3\t0,0,9,9", "thing 3\t0.1,0.1,0.5,0.5")


@pairs("row-without-target")
def an_answer_with_a_typing_error(data):
    as_labels(data, "confidences", "thing|!+1|!+1&&other|!+1|!+0.3")
    data.replace("thing 3\tthing|!+1|!+1&&other", "thing 3\tthlng|!+1|!+1&&othr")


@pairs("phrase-box-normalised")
def boxes_in_fractions(data):
    as_phrases(data, "0.1,0.2,0.5,0.9")


@pairs("table-unusable")
def boxes_with_width_and_height(data):
    as_phrases(data, "30,30,9,9")


@pairs("classes-differ")
def classes_in_another_order_for_training(data):
    as_classes(data)
    data.cfg.train_dataloader.dataset.classes = ("other", "thing")
