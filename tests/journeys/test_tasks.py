"""The tiny recipe of each fine-tuned task trains ten steps, is measured, and answers."""

import csv
import json
import subprocess

import numpy as np
import pytest
import soundfile
import torch
from mmengine.config import Config
from PIL import Image, ImageDraw

from mmonepeace.apis import Predictor
from mmonepeace.datasets.tokenizer import train
from tests.conftest import ROOT
from tests.journeys.resuming import assert_same_run, left_by_a_kill
from tests.journeys.test_segmentation import losses
from tests.processes import of_scripts, run_tool

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}
NOTES = {"low": 200, "middle": 600, "high": 1800}
SOUNDS = Config.fromfile(ROOT / "configs/_base_/datasets/esc10_labels.py").classes
MOTIONS = Config.fromfile(ROOT / "configs/_base_/datasets/emoji_motions_48.py").classes
SIDE, SPLITS = 48, {"train": 48, "val": 12}
QUICK = """
param_scheduler = [dict(type="ConstantLR", factor=1.0, by_epoch=False)]
train_cfg = dict(max_iters=10, val_interval=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=5))
"""


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Squares of three colours, tones of three pitches, and a table for each task."""
    root, rng = tmp_path_factory.mktemp("tasks"), np.random.default_rng(0)
    for split, count in SPLITS.items():
        rows = {table: [] for table, *_ in TASKS.values()}
        for i in range(count):
            colour = list(COLOURS)[i % 3]
            x, y = rng.integers(0, SIDE - 20, 2).tolist()
            image = Image.new("RGB", (SIDE, SIDE), "white")
            ImageDraw.Draw(image).rectangle((x, y, x + 19, y + 19), COLOURS[colour])
            image.save(root / f"{split}{i}.png")
            pitch = list(NOTES)[i % 3]
            wave = 0.3 * np.sin(2 * np.pi * NOTES[pitch] * np.arange(8000) / 16000)
            soundfile.write(root / f"{split}{i}.wav", wave, 16000)
            file, sound = {"image": f"{split}{i}.png"}, {"audio": f"{split}{i}.wav"}
            box = f"{x},{y},{x + 20},{y + 20}"
            rows["phrases"].append(file | {"text": f"the {colour} square", "region_coord": box})
            answers = json.dumps([colour] * 10)
            rows["questions"].append(
                {
                    "question_id": i,
                    **file,
                    "question": "which colour?",
                    "refs": f"{colour}|!+0|!+1.0",
                    "answers": answers,
                }
            )
            rows["statements"].append(
                {
                    "text": "the first is red",
                    "image1": file["image"],
                    "image2": f"{split}{(i * 7) % max(i, 1)}.png",
                    "label": colour == "red",
                }
            )
            text = "&&&".join(["What is it?", *NOTES, "none", str(i % 3)])
            rows["choices"].append(
                sound | {"text": text, "question": "What is it?", "answer": pitch}
            )
            rows["mixtures"].append(sound | {"labels": pitch})
            rows["sounds"].append(sound | {"label": SOUNDS[i % 3]})
            steps = [Image.new("RGB", (SIDE, SIDE), "white") for _ in range(6)]
            for step, frame in enumerate(steps):
                ImageDraw.Draw(frame).rectangle((6 * step, y, 6 * step + 9, y + 9), COLOURS[colour])
            steps = steps[:: -1 if i % 2 else 1]
            steps[0].save(root / f"{split}{i}.webp", save_all=True, append_images=steps[1:])
            motion = {"video": f"{split}{i}.webp", "label": MOTIONS[i % 2]}
            rows["videos"].append(motion)
            rows["names"].append(sound | {"label": pitch})
            rows["pairs"].append(file | {"caption": f"a {colour} square"})
        for name, table in rows.items():
            write(root / f"{name}_{split}.tsv", table)
    (root / "colours.txt").write_text("\n".join(COLOURS))
    (root / "notes.txt").write_text("\n".join(NOTES))
    texts = [*COLOURS, "the square which colour? first is a", "What is it? answer: none", *NOTES]
    train(texts * 2, 400).save(root / "tokenizer.json")
    return root


def tables(name, options=""):
    """Lines of a recipe that name the tables of a task."""
    lines = [
        f'{split}_dataloader = dict({size}dataset=dict(ann_file="{name}_{split}.tsv"{options}))'
        for split, size in (("train", "batch_size=8, "), ("val", ""))
    ]
    return "\n".join([*lines, "test_dataloader = val_dataloader\n"])


# Recipe -> name of its tables, file of its classes, number of classes, metric.
TASKS = {
    "grounding_emoji-64": ("phrases", None, None, "grounding/accuracy@0.5"),
    "vqa_emoji-64": ("questions", "colours.txt", 3, "vqa/accuracy"),
    "nlvr2_emoji-64": ("statements", None, None, "accuracy/top1"),
    "questions_notes": ("choices", None, None, "accuracy/top1"),
    "answers_notes": ("choices", "notes.txt", 3, "accuracy/top1"),
    "multi-label_notes": ("mixtures", "notes.txt", 3, "multilabel/mAP"),
    "classify_esc10": ("sounds", None, None, "accuracy/top1"),
    "video_motions": ("videos", None, None, "accuracy/top1"),
    "retrieval_flickr1k-64": ("pairs", None, None, "retrieval/image_to_text_R@1"),
    "retrieval_gm-instruments": ("names", None, None, "retrieval/audio_to_text_R@1"),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_from_its_table_to_an_answer(name, data, tmp_path):
    table, classes, count, metric = TASKS[name]
    changes = QUICK
    changes += tables(table, f", classes={classes!r}" if classes else "")
    if count:
        changes += f"model = dict(head=dict(num_classes={count}))\n"
    recipe, work = tmp_path / "recipe.py", tmp_path / "work"
    recipe.write_text(f'_base_ = ["{ROOT}/configs/tiny/onepeace-tiny_{name}.py"]\n{changes}')
    needs_text = "tokenizer" in (ROOT / f"configs/tiny/onepeace-tiny_{name}.py").read_text() or "flickr" in name  # fmt: skip
    options = ["--tokenizer", data / "tokenizer.json"] if needs_text else []
    done = run_tool("train.py", recipe, "--data-root", data, "--work-dir", work, *options)
    assert len(losses(done)) == 10
    assert f"{metric}: " in done.stdout
    assert (work / "tokenizer.json").exists() == needs_text
    if name.startswith("retrieval"):
        return
    predictor = Predictor.from_checkpoint(work, device="cpu")
    image, clip = str(data / "val0.png"), str(data / "val0.wav")
    if table == "phrases":
        (box,) = predictor.ground([image], ["the red square"])
        assert ((box >= 0) & (box <= SIDE)).all()
        return
    (answers,) = {
        "questions": lambda: predictor.answer(["which colour?"], images=[image]),
        "statements": lambda: predictor.compare([image], [image], ["the first is red"]),
        "choices": lambda: predictor.answer(
            ["which one?"], audio=[clip], candidates=None if classes else [["a", "b", "c", "d"]]
        ),
        "mixtures": lambda: predictor.classify(audio=[clip]),
        "sounds": lambda: predictor.classify(audio=[clip], top_k=10),
        "videos": lambda: predictor.classify(videos=[str(data / "val0.webp")], top_k=8),
    }[table]()
    names = {"questions": COLOURS, "statements": ("True", "False"), "choices": NOTES if classes else "abcd", "mixtures": NOTES, "sounds": SOUNDS, "videos": MOTIONS}  # fmt: skip
    assert {answer.label for answer in answers} == set(names[table])


@pytest.mark.slow
def test_a_checkpoint_of_pretraining_starts_a_task_and_a_kill_costs_nothing(data, tmp_path):
    recipe = tmp_path / "recipe.py"
    base = f'_base_ = ["{ROOT}/configs/tiny/onepeace-tiny_retrieval_flickr1k-64.py"]'
    recipe.write_text(f"{base}\n{QUICK}{tables('pairs')}")
    options = ("--data-root", data, "--tokenizer", data / "tokenizer.json")
    run_tool("train.py", recipe, *options, "--work-dir", tmp_path / "first")
    resumed = left_by_a_kill(tmp_path / "resumed", tmp_path / "first")
    run_tool("train.py", recipe, *options, "--work-dir", resumed, "--resume")
    assert_same_run(resumed, tmp_path / "first")
    again = run_tool(
        "train.py", recipe, *options, "--work-dir", tmp_path / "second",
        "--checkpoint", tmp_path / "first",
    )  # fmt: skip
    assert "every weight was loaded as it is" in again.stdout


def test_two_processes_train_as_one_with_the_same_batch(data, tmp_path):
    recipe = tmp_path / "recipe.py"
    changes = QUICK + tables("questions", ', classes="colours.txt"')
    changes += "model = dict(head=dict(num_classes=3), data_preprocessor=dict(augmentation=None))\n"
    recipe.write_text(f'_base_ = ["{ROOT}/configs/tiny/onepeace-tiny_vqa_emoji-64.py"]\n{changes}')
    options = ["--data-root", data, "--tokenizer", data / "tokenizer.json", "--work-dir"]
    run_tool("train.py", recipe, *options, tmp_path / "one")
    command = ["bash", ROOT / "tools/dist_train.sh", recipe, "2", *options, tmp_path / "two"]
    done = subprocess.run(
        [*map(str, command), "--cfg-options", "train_dataloader.batch_size=4"],
        capture_output=True, text=True, check=False,
        env=of_scripts(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        torch.load(tmp_path / name / "iter_10.pth", weights_only=False)["state_dict"]
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-3, rtol=1e-3, msg=name)
