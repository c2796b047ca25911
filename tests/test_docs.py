"""The code blocks of README and docs run, on small data; links and paths lead somewhere."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.datasets.tokenizer import ALPHABET, build_official
from mmonepeace.models import OnePeaceRetriever
from tests import coco_data, official
from tests.apis.conftest import AUDIO
from tests.conftest import ROOT, TINY, has_compiled_ops, randomise
from tests.doc_blocks import LANGUAGES, PageRunner, find_blocks

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [
    *PAGES,
    ROOT / "ARCHITECTURE.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "benchmarks").glob("*.md"),
]
BLOCKS = [block for page in PAGES for block in find_blocks(page)]
CAPTIONS = (
    "a dog in the snow", "waves on a beach", "a busy street at night", "a red car near the sea",
    "two birds on a branch", "rain on a tin roof", "an old tree in a field", "a cat with glasses",
)  # fmt: skip
WORDS = ("bark", "rain", "waves", "engine")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def write_vocabulary(folder: Path) -> None:
    """The three files of the official vocabulary, with the 256 bytes and nothing else."""
    tokens = {token: i for i, token in enumerate(sorted(ALPHABET))}
    (folder / "encoder.json").write_text(json.dumps(tokens))
    (folder / "vocab.bpe").write_text("#version: 0.2\n")
    (folder / "dict.txt").write_text("".join(f"{i} 1\n" for i in tokens.values()))
    build_official(*(folder / name for name in ("dict.txt", "vocab.bpe", "encoder.json"))).save(
        folder / "tokenizer.json"
    )
    shutil.copyfile(folder / "tokenizer.json", folder / "data/pretrain_demo/tokenizer.json")


def write_checkpoints(folder: Path) -> None:
    """one-peace.pt in the official layout, the same in ours, and a segmentor of the demo."""
    modalities = {"text": {"vocab_size": 260, "num_buckets": 8}, "image": {}, "audio": AUDIO}
    backbone = dict(arch=TINY, modalities=modalities, img_size=64, final_norm=True)
    model = randomise(OnePeaceRetriever(backbone))
    converted = checkpoint.to_own(model.state_dict(), {"format": "mmonepeace"})
    checkpoint.write(folder / "onepeace.safetensors", converted)
    checkpoint.convert_file(
        folder / "onepeace.safetensors", folder / "one-peace.pt", "official-full"
    )
    for task in ("vqa", "refcoco", "vggsound", "nlvr2", "aqa"):
        torch.save(official.fine_tuned(task), folder / f"finetune_{task}.pt")
    cfg = Config.fromfile(ROOT / "configs/tiny/onepeace-tiny_upernet_emoji-128.py")
    init_default_scope("mmseg")
    segmentor = MODELS.build(cfg.model)
    metainfo = cfg.train_dataloader.dataset.metainfo
    (folder / "work_dirs/demo").mkdir(parents=True)
    torch.save(
        dict(state_dict=segmentor.state_dict(), meta=dict(dataset_meta=dict(metainfo))),
        folder / f"work_dirs/demo/iter_{cfg.train_cfg.max_iters}.pth",
    )


def write_table(path: Path, header: str, rows: list[tuple[str, ...]]) -> None:
    path.write_text("\n".join(["\t".join(header.split()), *map("\t".join, rows)]) + "\n")


def write_files(folder: Path) -> None:
    """Images and audio clips with the names that the pages use, and tables of them."""
    rng = np.random.default_rng(0)

    def image(path: Path, height: int = 60, width: int = 80) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(path)

    def audio(path: Path, seconds: float = 0.5) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * rng.standard_normal(int(16_000 * seconds)), 16_000)

    for name in ("beach.jpg", "street.jpg", "photos/a.jpg", "photos/b.png"):
        image(folder / name)
    image(folder / "portrait.png", 96, 64)
    image(folder / "aerial.png", 200, 320)
    audio(folder / "rain.flac")
    audio(folder / "long_recording.ogg", 3.0)
    rows = [(f"photos/{name}", label) for name, label in (("a.jpg", "dog"), ("b.png", "cat"))]
    write_table(folder / "val.tsv", "image label", rows)
    for split, count in (("train", 16), ("val", 8)):
        pairs, clips = [], []
        for i in range(count):
            image(folder / f"DIR/pairs/{split}/{i}.png")
            pairs.append((f"pairs/{split}/{i}.png", CAPTIONS[i % 8], WORDS[i % 4]))
            word = WORDS[i % 4]
            audio(folder / f"sounds/{split}/{word}/{i}.flac", 1.0)
            clips.append((f"../sounds/{split}/{word}/{i}.flac", word))
        write_table(folder / f"DIR/{split}.tsv", "image caption label", pairs)
        (folder / "SOUNDS").mkdir(exist_ok=True)
        write_table(folder / f"SOUNDS/{split}.tsv", "audio label", clips)
    both = [(f"sounds/val/{WORDS[i]}/{i}.flac", f"DIR/pairs/val/{i}.png") for i in range(4)]
    write_table(folder / "both.tsv", "audio image", both)
    image(folder / "images/a.jpg")
    (folder / "labels").mkdir()
    Image.fromarray(rng.integers(0, 3, (60, 80), np.uint8)).save(folder / "labels/a.png")
    (folder / "names.txt").write_text("sky\nbuilding\ncar\n")
    write_common_names(folder / "data/pretrain_demo/common")


def write_common_names(folder: Path) -> None:
    """Tables as common_names.py writes them."""
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        images = [(f"../../../DIR/pairs/{split}/{i}.png", WORDS[i]) for i in range(4)]
        sounds = [(f"../../../sounds/{split}/{WORDS[i]}/{i}.flac", WORDS[i]) for i in range(4)]
        write_table(folder / f"images_{split}.tsv", "image caption", images)
        write_table(folder / f"sounds_{split}.tsv", "audio caption", sounds)
    write_table(folder / "other_images_train.tsv", "image caption", images)
    both = [(sound, image) for (sound, _), (image, _) in zip(sounds, images, strict=True)]
    write_table(folder / "sound_to_picture.tsv", "audio image", both)


def has(need: str | None) -> bool:
    """Whether there is what a block needs: compiled operators, or a package by its name."""
    if need == "compiled operators":
        return has_compiled_ops()
    return need is None or find_spec(need) is not None


@pytest.fixture(scope="module")
def workplace(seg_data, tmp_path_factory) -> Path:
    """A folder like the clone, with the small data and checkpoints that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("tools", "tests", "benchmarks", "mmonepeace"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(seg_data, folder / "DIR")
    # As the template has it: JPEG images, two classes.
    for path in (folder / "DIR/img_dir").rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    for path in (folder / "DIR/ann_dir").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) % 2).save(path)
    coco_data.make_coco(folder / "DIR")
    for path in (folder / "DIR/annotations").iterdir():
        text = path.read_text()
        for ours, name in zip(coco_data.CLASSES, ("Platelets", "RBC", "WBC"), strict=True):
            text = text.replace(f'"{ours}"', f'"{name}"')
        path.write_text(text)
    write_files(folder)
    write_vocabulary(folder)
    write_checkpoints(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # the vocabulary is not the official one
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS}), ids=name_of)
def test_the_blocks_of_a_page_run(page, workplace, tmp_path):
    folder = tmp_path / "work"
    shutil.copytree(workplace, folder, symlinks=True)
    runner = PageRunner(folder)
    try:
        for block in find_blocks(page):
            if block.note("not run") or not has(block.note("needs")):
                continue
            runner.run(block)
    finally:
        runner.close()


def test_most_blocks_run():
    for language, least in zip(LANGUAGES, (0.8, 0.6), strict=True):
        blocks = [block for block in BLOCKS if block.language == language]
        run = [block for block in blocks if not block.note("not run")]
        assert len(run) >= least * len(blocks)


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_relative_links_and_their_anchors_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor in anchors, f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_in_the_text_exist(page):
    """`tools/train.py` and the like; what a block makes, such as configs/seg/mine.py, is left out."""
    folders = "benchmarks|configs|docs|mmonepeace|tests|tools"
    for path in re.findall(rf"(?<![\w/.])(?:{folders})/[\w./-]+\w", page.read_text()):
        made = path.endswith("/mine.py")
        assert made or (ROOT / path).exists(), f"{name_of(page)} names {path}"


def test_the_index_lists_every_page():
    index = (ROOT / "docs/index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name != "index.md":
            assert f"]({page.relative_to(ROOT / 'docs')})" in index


def test_messages_that_a_page_explains_are_those_of_the_code():
    files = [*(ROOT / "mmonepeace").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    code = "\n".join(path.read_text() for path in files)
    code = re.sub(r'"\s*f?"', "", code)  # texts that continue on the next line
    code = code.replace("{split.name}", "val").replace("{train.name}", "train")
    for page in PAGES:
        table = page.read_text().partition("| when you see | do |")[2].partition("\n\n")[0]
        for message in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE):
            for words in re.split(r"\d+|\.\.\.|'[^' ]+'", message):
                assert words.strip(" .") in code, f"{name_of(page)}: {message}"
