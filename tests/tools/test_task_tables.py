"""Official data sets to tables, from tiny archives in the formats of their authors."""

import csv
import io
import json
import pickle
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from mmengine.config import Config

from mmonepeace.datasets.manifest import read_manifest
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import task_tables as tool
import vqa_answers

ESC50 = "filename,fold,target,category,esc10,src_file,take"
VQA = "v2_OpenEnded_mscoco_{}_questions.json"


CONFIGS = ROOT / "configs"
RECIPES = [p for folder in ("tasks", "pretrain") for p in sorted((CONFIGS / folder).glob("*.py"))]
BY_TOOL = [p for p in RECIPES if "task_tables.py" in Config.fromfile(p).get("needs_data", "")]


def documented():
    """Set -> its tables and all columns that one of them may have, as the tool's help says."""
    sets = {}
    for line in re.findall(r"^\| (?!NAME|---)(.+) \|$", tool.__doc__, re.MULTILINE):
        names, tables, columns = line.split(" | ")
        if tables.startswith("all, and train and val"):
            tables = ", ".join(
                ["all", *(f"fold{i}_{x}" for i in range(1, 6) for x in ("train", "val"))]
            )
        for name in names.split(", "):
            sets[name] = set(tables.split(", ")), set(columns.split(", "))
    return sets


class Official:
    """A folder of official files, and the tool's runs on it."""

    def __init__(self, folder, monkeypatch, capsys):
        self.folder, self.out = folder / "official", folder / "out"
        self.folder.mkdir()
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def write(self, name, content):
        """A file: bytes, text, or what becomes JSON."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_bytes(content))

    def pack(self, name, files):
        """An archive of files: names, each with its name as content, or name -> content."""
        files = files if isinstance(files, dict) else {file: file for file in files}
        path = self.folder / name
        if name.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as archive:
                for file, content in files.items():
                    archive.writestr(file, as_bytes(content))
            return
        with tarfile.open(path, "w:gz") as archive:
            for file, content in files.items():
                info = tarfile.TarInfo(file)
                info.size = len(as_bytes(content))
                archive.addfile(info, io.BytesIO(as_bytes(content)))

    def convert(self, name, *options, status=0):
        """Run the tool: what it prints, on stdout and stderr."""
        command = ["task_tables", name, str(self.folder), "--out", str(self.out)]
        self.monkeypatch.setattr("sys.argv", [*command, *map(str, options)])
        self.capsys.readouterr()
        assert tool.main() == status
        if status == 0:
            tables, columns = documented()[name]
            for path in self.out.glob("*.tsv"):
                assert path.stem in tables
                assert set(self.table(path.stem)[0]) <= columns
        out, err = self.capsys.readouterr()
        lines = [line for line in err.splitlines() if "\r" not in line and "it/s" not in line]
        return out + "\n".join(lines)

    def fail(self, name, *options):
        """The one line that the tool ends with."""
        said = self.convert(name, *options, status=2)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "Traceback" not in said
        assert not list(self.out.glob("*.tsv"))
        return errors[0]

    def table(self, name):
        with (self.out / f"{name}.tsv").open(newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))

    def classes(self):
        return (self.out / "classes.txt").read_text().splitlines()

    def check_files(self, name, *columns):
        """All files of a table are there, with their content."""
        for row in self.table(name):
            for column in columns:
                assert row[column].endswith((self.out / row[column]).read_text())


def as_bytes(content):
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()


@pytest.fixture
def official(tmp_path, monkeypatch, capsys):
    return Official(tmp_path, monkeypatch, capsys)


def default_out(name):
    """Where the tool writes a set without --out."""
    return f"data/{tool.SETS[name].folder or name}"


def test_every_set_is_documented():
    assert documented().keys() == tool.SETS.keys()


@pytest.mark.parametrize("path", BY_TOOL, ids=lambda path: path.stem)
def test_recipes_read_what_the_tool_writes_by_default(path):
    cfg, sets = Config.fromfile(path), documented()
    tables = {default_out(name): name for name in tool.SETS}
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        files = dataset.ann_file if isinstance(dataset.ann_file, list) else [dataset.ann_file]
        columns = [*dataset["columns"].values(), *dataset.get("extra", ())]
        columns += [dataset[key] for key in ("label", "answers") if dataset.get(key)]
        for file in [
            x for x in files if x != "al/train.tsv"
        ]:  # of the paper, which nobody published
            table = Path(dataset.data_root, file)
            name = tables[str(table.parent)]
            assert table.stem in sets[name][0]
            assert set(columns) <= sets[name][1]
            assert str(table) in expanded(cfg.needs_data)
    for folder, stem in re.findall(r"(data/[\w+]+)/([\w-]+)\.tsv", expanded(cfg.needs_data)):
        assert stem in sets[tables[folder]][0]


def expanded(text):
    """A text with each `{a,b}` written out."""
    while found := re.search(r"(\S*)\{([^}]*)\}(\S*)", text):
        before, choices, after = found.groups()
        text = text.replace(found[0], " ".join(f"{before}{c}{after}" for c in choices.split(",")))
    return text


@pytest.mark.parametrize("name", tool.SETS)
def test_a_recipe_reads_each_set_where_the_tool_writes_it(name):
    read = [
        Path(d.data_root, file).parent
        for p in BY_TOOL
        for d in [Config.fromfile(p).train_dataloader.dataset]
        for file in (d.ann_file if isinstance(d.ann_file, list) else [d.ann_file])
    ]
    assert Path(default_out(name)) in read


def test_the_default_folder_of_coco_is_not_that_of_detection(coco, monkeypatch):
    monkeypatch.chdir(coco.folder)
    monkeypatch.setattr("sys.argv", ["task_tables", "coco", "."])
    assert tool.main() == 0
    assert len(list((coco.folder / "data/coco_karpathy").glob("*.tsv"))) == 3


def karpathy(*images):
    return {
        "images": [
            {
                "filepath": folder, "filename": name, "split": split, "imgid": i,
                "sentences": [{"raw": text, "tokens": text.split(), "imgid": i} for text in texts],
            }
            for i, (folder, name, split, *texts) in enumerate(images)
        ]
    }  # fmt: skip


COCO = karpathy(
    ("train2014", "COCO_train2014_000000000009.jpg", "train", "A dog.", 'A "big" dog \n'),
    ("val2014", "COCO_val2014_000000000042.jpg", "restval", "Two\tcats."),
    ("val2014", "COCO_val2014_000000000073.jpg", "val", '"Quoted"'),
    ("val2014", "COCO_val2014_000000000074.jpg", "test", "A cow."),
)


@pytest.fixture
def coco(official):
    official.pack("caption_datasets.zip", {"dataset_coco.json": COCO})
    names = [f"{image['filepath']}/{image['filename']}" for image in COCO["images"]]
    official.pack("train2014.zip", names[:1])
    packed = {f"./{name}": name for name in [*names[1:], "val2014/not_used.jpg"]}
    official.pack("val2014.tar.gz", packed)
    return official


def test_captions_of_coco_follow_karpathys_splits(coco):
    said = coco.convert("coco")
    assert "warning: train has 3 rows in the annotations, published are 566,747" in said
    assert "train 3, val 1, test 1 rows" in said
    assert [row["caption"] for row in coco.table("train")] == [
        "A dog.", 'A "big" dog', "Two cats."
    ]  # fmt: skip
    for split in ("train", "val", "test"):
        coco.check_files(split, "image")
    assert not list(coco.out.rglob("not_used*"))


def test_the_manifest_reader_gives_the_captions_back(coco):
    coco.convert("coco")
    columns = dict(image="image", text="caption")
    rows = read_manifest(coco.out / "train.tsv", columns) + read_manifest(
        coco.out / "val.tsv", columns
    )
    assert [row["text"] for row in rows] == ["A dog.", 'A "big" dog', "Two cats.", '"Quoted"']


def test_a_second_run_unpacks_only_what_is_missing(coco):
    coco.convert("coco")
    paths = sorted(coco.out.rglob("*.jpg"))
    before = {path: path.stat().st_mtime_ns for path in paths}
    tables = {path: path.read_bytes() for path in coco.out.glob("*.tsv")}
    paths[0].write_text("cut off")
    paths[1].unlink()
    coco.convert("coco")
    assert all(path.read_text() in str(path) for path in paths)
    assert all(path.stat().st_mtime_ns == before[path] for path in paths[2:])
    assert {path: path.read_bytes() for path in tables} == tables


def test_unpacked_files_are_used_where_they_are(official):
    images = karpathy(*(("", f"{i}.jpg", s, "a") for i, s in enumerate(("train", "val", "test"))))
    official.write("dataset_flickr30k.json", images)
    for i in range(3):
        official.write(f"flickr30k-images/{i}.jpg", f"{i}.jpg")
    official.convert("flickr30k")
    assert official.table("val")[0]["image"] == "../official/flickr30k-images/1.jpg"
    official.check_files("test", "image")
    assert not list(official.out.rglob("*.jpg"))


def test_links_are_followed_once(official, tmp_path):
    images = karpathy(*(("", f"{i}.jpg", s, "a") for i, s in enumerate(("train", "val", "test"))))
    official.write("dataset_flickr30k.json", images)
    (tmp_path / "elsewhere").mkdir()
    for i in range(3):
        (tmp_path / f"elsewhere/{i}.jpg").write_text(f"{i}.jpg")
    (official.folder / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(official.folder)
    official.convert("flickr30k")
    official.check_files("train", "image")


def test_a_subset_is_small_and_always_the_same(official):
    splits = ["train"] * 50 + ["val"] * 20 + ["test"] * 20
    images = karpathy(*(("", f"{i}.jpg", s, "a", "b") for i, s in enumerate(splits)))
    official.write("dataset_flickr30k.json", images)
    official.pack("images.zip", [f"{i}.jpg" for i in range(90)])
    official.convert("flickr30k", "--subset", 4)
    first = official.table("train")
    assert len(first) == 8  # both captions of each image
    assert len(list(official.out.rglob("*.jpg"))) == 12
    images["images"].reverse()
    official.write("dataset_flickr30k.json", images)
    official.convert("flickr30k", "--subset", 4)
    assert {r["image"] for r in official.table("train")} == {r["image"] for r in first}


def test_files_that_are_missing_are_counted_and_named(coco):
    (coco.folder / "train2014.zip").unlink()
    error = coco.fail("coco")
    assert "train: the files of 2 of 3 rows are missing: train2014/COCO_train2014_0" in error
    assert "They are in train2014.zip of COCO" in error
    assert "--max-missing" in error
    said = coco.convert("coco", "--max-missing", 0.7)
    assert "warning: train: 2 of 3 rows are left out" in said
    assert len(coco.table("train")) == 1


def test_files_in_two_splits_are_refused(official):
    images = karpathy(*(("", "1.jpg", split, "a") for split in ("train", "val", "test")))
    official.write("dataset_flickr30k.json", images)
    official.write("1.jpg", "1.jpg")
    assert "1 files are in more than one split: 1.jpg (train, test)" in official.fail("flickr30k")
    assert "warning: 1 files are in" in official.convert("flickr30k", "--allow-overlap")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"images": [{"filename"', "not in the official format"),
        (b"\xff\xfe\x00", "not in the official format"),
        ({"pictures": []}, "there is no 'images'"),
        (
            {"images": [{"filename": "a.jpg", "split": "all", "sentences": [{"raw": "a"}]}]},
            "no 'all'",
        ),
        ({"images": [{"filename": "a", "split": "val", "sentences": [{"raw": 1}]}]}, "is no text"),
        ({"images": []}, "train has no rows"),
        ([], "not in the official format"),
    ],
)
def test_annotations_in_another_format_end_in_one_line(content, problem, official):
    official.write("dataset_coco.json", content)
    assert problem in official.fail("coco")


def test_annotations_that_are_missing_or_differ_are_named(official):
    assert "there is no dataset_coco.json. Get it from" in official.fail("coco")
    official.write("a/dataset_coco.json", COCO)
    official.write("b/dataset_coco.json", {})
    assert "is there with different content" in official.fail("coco")
    official.folder = official.folder / "nothing"
    assert "nothing: no such folder" in (error := official.fail("coco"))
    assert "--list names those of each set" in error


@pytest.mark.parametrize("name", ["train2014.zip", "val2014.tar.gz"])
@pytest.mark.parametrize("keep", [0, 40, -30])
def test_cut_off_archives_end_in_one_line(name, keep, coco):
    path = coco.folder / name
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{name} cannot be unpacked" in coco.fail("coco")


def test_archives_that_are_not_read_are_explained(official):
    official.write("FSD50K.dev_audio.z01", b"")
    error = official.fail("fsd50k")
    assert "zip -s 0 FSD50K.dev_audio.zip --out whole.zip" in error
    (official.folder / "FSD50K.dev_audio.z01").unlink()
    official.write("clotho_audio_development.7z", b"")
    assert "7z x clotho_audio_development.7z" in official.fail("clotho")


def test_members_that_would_leave_the_folder_are_not_unpacked(official):
    images = karpathy(*(("", f"{i}.jpg", s, "a") for i, s in enumerate(("train", "val", "test"))))
    official.write("dataset_flickr30k.json", images)
    official.pack("images.zip", ["../../0.jpg", "/tmp/1.jpg", "2.jpg"])
    assert "the files of 1 of 1 rows are missing: 0.jpg" in official.fail("flickr30k")
    assert not (official.folder.parent / "0.jpg").exists()


def audiocaps(official, names):
    header = "audiocap_id,youtube_id,start_time,caption\n"
    for i, split in enumerate(("train", "val", "test")):
        official.write(f"{split}.csv", f'{header}{i},-yt{i}x,30,"A dog, barking"\n')
        official.write(f"audio/{names[i]}", names[i])


@pytest.mark.parametrize(
    "names",
    [
        ("-yt0x_30.flac", "-yt1x_30.flac", "-yt2x_30.flac"),
        ("-yt0x.wav", "-yt1x.wav", "-yt2x.wav"),
        ("Y-yt0x.wav", "Y-yt1x.wav", "Y-yt2x.wav"),
        ("train/0.wav", "val/1.wav", "test/2.wav"),
    ],
)
def test_clips_of_audiocaps_are_found_by_the_usual_names(names, official):
    audiocaps(official, names)
    official.convert("audiocaps")
    assert official.table("val") == [
        {"audio": f"../official/audio/{names[1]}", "caption": "A dog, barking"}
    ]


def test_videos_without_their_sound_are_explained(official):
    audiocaps(official, ("-yt0x.mp4", "-yt1x.wav", "-yt2x.wav"))
    assert "ffmpeg -i -yt0x.mp4 -vn -ac 1 -ar 16000 -yt0x.wav" in official.fail("audiocaps")


def test_clotho_has_five_captions_a_clip(official):
    for name in ("development", "validation", "evaluation"):
        header = "file_name," + ",".join(f"caption_{i}" for i in range(1, 6))
        official.write(f"clotho_captions_{name}.csv", f"{header}\nrain {name}.wav,a,b,c,d,e\n")
        official.write(f"{name}/rain {name}.wav", "")
    official.convert("clotho")
    assert [row["caption"] for row in official.table("test")] == list("abcde")
    assert official.table("val")[0]["audio"] == "../official/validation/rain validation.wav"


def test_macs_is_read_without_running_it(official):
    clip = "  - filename: airport-barcelona-0-0-a.wav\n    annotations:\n"
    captions = (
        "      - annotator_id: 9\n        sentence: People talk\n        tags:\n        - speech\n"
    )
    official.write("MACS.yaml", f"files:\n{clip}{captions}")
    official.pack("TAU.audio.1.zip", ["TAU/audio/airport-barcelona-0-0-a.wav"])
    official.convert("macs")
    assert official.table("train")[0]["caption"] == "People talk"
    official.check_files("train", "audio")
    official.write("MACS.yaml", "files: !!python/object/apply:os.system ['touch hacked']")
    (official.out / "train.tsv").unlink()
    assert "MACS.yaml is not YAML" in official.fail("macs")


def esc50(official, *changes):
    lines = [ESC50]
    for fold in range(1, 6):
        lines += [
            f"{fold}-10{fold}-A-0.wav,{fold},0,dog,True,10{fold},A",
            f"{fold}-20{fold}-A-1.wav,{fold},1,cat,False,20{fold},A",
        ]
    names = [f"ESC-50-master/audio/{line.partition(',')[0]}" for line in lines[1:]]
    text = "\n".join([*lines, *changes])
    files = {name: name for name in names} | {"ESC-50-master/meta/esc50.csv": text}
    official.pack("ESC-50-master.zip", files)


def test_esc50_has_its_folds(official):
    esc50(official)
    assert "mean accuracy of five runs" in official.convert("esc50")
    assert official.classes() == ["dog", "cat"]
    assert len(official.table("all")) == 10
    for fold in "12345":
        train, val = official.table(f"fold{fold}_train"), official.table(f"fold{fold}_val")
        assert {row["fold"] for row in val} == {fold}
        assert {row["fold"] for row in train} == set("12345") - {fold}
        assert len(train) + len(val) == 10
    official.check_files("all", "audio")


@pytest.mark.parametrize("count", [7, 9])
def test_a_subset_of_esc50_is_the_union_of_its_folds(count, official):
    esc50(official)
    official.convert("esc50", "--subset", count)
    everything = [row["audio"] for row in official.table("all")]
    assert len(everything) == count
    folds = [[r["audio"] for r in official.table(f"fold{i}_val")] for i in range(1, 6)]
    assert sorted(x for fold in folds for x in fold) == sorted(everything)
    for i, held_out in enumerate(folds, 1):
        kept = [row["audio"] for row in official.table(f"fold{i}_train")]
        assert sorted(kept + held_out) == sorted(everything)
    assert len(list(official.out.rglob("*.wav"))) == count


def test_a_subset_that_leaves_a_fold_empty_is_refused(official):
    esc50(official)
    error = official.fail("esc50", "--subset", 1)
    assert "--subset 1 leaves no row of fold" in error
    assert "which is a part of all. Take more." in error


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1-101-B-0.wav,2,0,dog,True,101,B", "recording 101 is in folds 1, 2"),
        ("1-9-A-0.wav,6,0,dog,True,9,A", "is in fold 6"),
        ("1-9-A-0.wav,1,0,cow,True,9,A", "target 0 stands for two categories"),
        ("1-9-A-0.wav,1", "row 12 has 2 fields, not 7"),
    ],
)
def test_faults_of_esc50_are_refused(line, problem, official):
    esc50(official, line)
    assert problem in official.fail("esc50")


def fsd50k(official, labels="Rain,Wind"):
    official.pack(
        "FSD50K.ground_truth.zip",
        {
            "FSD50K.ground_truth/vocabulary.csv": "1,Rain,/m/1\n0,Wind,/m/0\n2,Bark,/m/2\n",
            "FSD50K.ground_truth/dev.csv": "fname,labels,mids,split\n"
            f'64760,"{labels}","/m/1,/m/0",train\n16399,Bark,/m/2,val\n',
            "FSD50K.ground_truth/eval.csv": "fname,labels,mids\n64760,Wind,/m/0\n",
        },
    )
    official.pack(
        "audio.zip",
        ["FSD50K.dev_audio/64760.wav", "FSD50K.dev_audio/16399.wav", "FSD50K.eval_audio/64760.wav"],
    )


def test_classes_of_fsd50k_are_in_the_order_of_its_vocabulary(official):
    fsd50k(official)
    said = official.convert("fsd50k")
    assert official.classes() == ["Wind", "Rain", "Bark"]
    assert official.table("train") == [
        {"audio": "FSD50K.dev_audio/64760.wav", "labels": "Rain,Wind"}
    ]
    assert official.table("test")[0]["audio"] == "FSD50K.eval_audio/64760.wav"
    assert "published are 36,796" in said


def test_labels_that_are_no_class_are_refused(official):
    fsd50k(official, "Rain,Snow")
    assert "'Snow' of dev 64760" in official.fail("fsd50k")


def vggsound(official):
    lines = ["---g-f_I2yQ,1,people marching,test", '0a,30,"railroad car, train wagon",train']
    official.write("vggsound.csv", "\n".join(lines))
    official.write("audio/---g-f_I2yQ_000001.wav", "")
    official.write("audio/0a_000030.flac", "")


def test_classes_of_vggsound_may_come_from_a_list(official, tmp_path):
    vggsound(official)
    assert "309" in official.convert("vggsound")
    assert official.classes() == ["people marching", "railroad car, train wagon"]
    row = {"audio": "../official/audio/0a_000030.flac", "label": "railroad car, train wagon"}
    assert official.table("train") == [row]
    names = tmp_path / "vggsound_id2label.json"
    names.write_text('{"1": "people marching", "0": "railroad car, train wagon"}')
    official.convert("vggsound", "--classes", names)
    assert official.classes() == ["railroad car, train wagon", "people marching"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("c.txt", "a\nb\n", "2 labels are not among the 2 classes"),
        ("c.txt", "a\na\n", "has 'a' more than once"),
        ("c.txt", "", "is empty"),
        ("c.json", '{"0": "a", "2": "b"}', "not a list of classes"),
        ("c.json", "[1, 2]", "not a list of classes"),
        ("c.json", "[", "not a list of classes"),
    ],
)
def test_faults_of_a_list_of_classes_are_named(name, text, problem, official, tmp_path):
    vggsound(official)
    (tmp_path / name).write_text(text)
    assert problem in official.fail("vggsound", "--classes", tmp_path / name)


def test_a_list_of_classes_that_is_missing_is_named(official, tmp_path):
    path = tmp_path / "nothere.json"
    said = official.fail("vggsound", "--classes", path)
    assert said == f"error: {path}: no such file. Correct --classes, or leave it out."


@pytest.mark.parametrize("subset", [0, -1])
def test_a_subset_of_nothing_is_refused(subset, official, capsys):
    with pytest.raises(SystemExit) as ended:
        official.convert("vggsound", "--subset", subset)
    assert ended.value.code == 2
    assert f"--subset is {subset}, expected 1 or more" in capsys.readouterr().err


def avqa(official, **changes):
    item = {
        "id": 183, "video_name": "-HG3Omg_89c_000030", "video_id": 341,
        "question_text": "What happened in the Video?",
        "multi_choice": ["motorboat", "Yacht", "Sailboat", "car"], "answer": 1,
        "question_relation": "View", "question_type": "Happening",
    }  # fmt: skip
    official.write("train_qa.json", [item | changes])
    official.write("val_qa.json", [item | {"video_name": "x_000001"}])
    for name in ("-HG3Omg_89c_000030", "x_000001"):
        official.write(f"wav/{name}.wav", "")


def test_questions_of_avqa_keep_their_case(official):
    avqa(official)
    assert "train+val has 2 rows" in official.convert("avqa")
    text = "What happened in the Video?&&&motorboat&&&Yacht&&&Sailboat&&&car&&&1"
    row = {"audio": "../official/wav/-HG3Omg_89c_000030.wav", "text": text}
    assert official.table("train") == [row]


@pytest.mark.parametrize(
    "changes",
    [{"answer": 4}, {"answer": "1"}, {"multi_choice": ["a", "b"]}, {"question_text": "a&&&b"}],
)
def test_faults_of_avqa_are_refused(changes, official):
    avqa(official, **changes)
    assert "train_qa.json is not in the official format" in official.fail("avqa")


def refcoco(official, name="refcoco", refs_name="refs(unc).p", splits=("testB",), **changes):
    """References as REFER stores them; `changes` are of the first annotation."""
    splits = ("train", "val", "testA", *splits) if name != "refcocog" else ("train", "val", "test")
    refs = [
        {
            "ref_id": i, "ann_id": 1000 + i, "category_id": 1, "image_id": i, "split": split,
            "file_name": f"COCO_train2014_{i:012d}_{i}.jpg", "sent_ids": [2 * i, 2 * i + 1],
            "sentences": [
                {"sent_id": 2 * i, "raw": "Left Dog!", "sent": "left dog", "tokens": ["left", "dog"]},
                {"sent_id": 2 * i + 1, "raw": "Dog", "sent": "dog", "tokens": ["dog"]},
            ],
        }
        for i, split in enumerate(splits)
    ]  # fmt: skip
    files = [f"COCO_train2014_{i:012d}.jpg" for i in range(len(splits))]
    images = [dict(id=i, file_name=f, width=640, height=480) for i, f in enumerate(files)]
    boxes = [dict(id=1000 + i, image_id=i, bbox=[10.5, 20, 30, 40]) for i in range(len(splits))]
    boxes[0] |= changes
    official.write(f"{name}/instances.json", {"images": images, "annotations": boxes})
    # Python 2 wrote them, with protocol 0.
    official.write(f"{name}/{refs_name}", pickle.dumps(refs, protocol=0))
    official.pack("train2014.zip", [f"train2014/{file}" for file in files])


@pytest.mark.parametrize(
    ("name", "refs_name", "tables"),
    [
        ("refcoco", "refs(unc).p", {"train", "val", "testA", "testB"}),
        ("refcoco+", "refs(unc).p", {"train", "val", "testA", "testB"}),
        ("refcocog", "refs(umd).p", {"train", "val", "test"}),
    ],
)
def test_phrases_have_the_corners_of_their_boxes(name, refs_name, tables, official):
    refcoco(official, name, refs_name)
    official.convert(name)
    assert {path.stem for path in official.out.glob("*.tsv")} == tables
    image = "train2014/COCO_train2014_000000000001.jpg"
    assert official.table("val") == [
        {"image": image, "text": text, "region_coord": "10.5,20,40.5,60"}
        for text in ("left dog", "dog")
    ]
    official.check_files("train", "image")


def test_the_set_that_is_asked_for_is_read_where_there_are_several(official):
    refcoco(official, "refcoco+", bbox=[1, 1, 1, 1])
    refcoco(official, "refcoco")
    official.convert("refcoco+")
    assert official.table("train")[0]["region_coord"] == "1,1,2,2"


def test_a_box_may_reach_over_the_edge_by_rounding_only(official):
    refcoco(official, bbox=[-0.4, 0, 640.9, 480.3])
    official.convert("refcoco")
    assert official.table("train")[0]["region_coord"] == "0,0,640,480"


@pytest.mark.parametrize(
    "bbox", [[600, 0, 50, 10], [10, 10, 0, 5], [-5, 0, 10, 10], [float("nan"), 0, 1, 1]]
)
def test_boxes_that_are_not_inside_are_refused_or_left_out(bbox, official):
    refcoco(official, bbox=bbox)
    error = official.fail("refcoco")
    assert "2 samples have a box that is not inside the image: COCO_train2014_000000000000" in error
    refcoco(official, splits=("testB", "train"), bbox=bbox)
    official.convert("refcoco", "--max-missing", 0.5)
    assert len(official.table("train")) == 2


class Marker:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_something_is_refused(protocol, official, tmp_path):
    refcoco(official)
    marker = tmp_path / "marker"
    official.write("refcoco/refs(unc).p", pickle.dumps([Marker(str(marker))], protocol))
    error = official.fail("refcoco")
    assert "refused: the file calls" in error
    assert "Nothing was executed" in error
    assert not marker.exists()


@pytest.mark.parametrize("damage", [lambda data: data[:50], lambda data: b"\x80" + data[7:]])
def test_a_damaged_pickle_ends_in_one_line(damage, official):
    refcoco(official)
    path = official.folder / "refcoco/refs(unc).p"
    path.write_bytes(damage(path.read_bytes()))
    assert "refs(unc).p: cannot be read: truncated or not a pickle" in official.fail("refcoco")


@pytest.mark.parametrize("content", [5, [5], [{"ann_id": 1}], [[]], {"a": 1}])
def test_a_pickle_of_something_else_ends_in_one_line(content, official):
    refcoco(official)
    official.write("refcoco/refs(unc).p", pickle.dumps(content))
    assert "refs(unc).p is not in the official format" in official.fail("refcoco")


def vqa(official, answers):
    """Questions of train, each with ten answers; one of val, one of the tests."""

    def annotated(split, images, lists):
        questions = [
            {"question_id": image * 1000, "image_id": image, "question": f"What is it, {image}?"}
            for image in images
        ]
        annotations = [
            {
                "question_id": q["question_id"], "image_id": q["image_id"], "answer_type": "other",
                "multiple_choice_answer": max(given, key=given.count),
                "answers": [{"answer": a, "answer_id": i + 1} for i, a in enumerate(given)],
            }
            for q, given in zip(questions, lists, strict=True)
        ]  # fmt: skip
        official.write(VQA.format(split), {"questions": questions})
        official.write(f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})
        official.pack(f"{split}.zip", [f"{split}/COCO_{split}_{i:012d}.jpg" for i in images])

    annotated("train2014", range(1, len(answers) + 1), answers)
    annotated("val2014", range(501, 503), [["red"] * 10, ["unheard of"] * 10])
    for name, images in (("test2015", (701, 702)), ("test-dev2015", (702,))):
        questions = [{"question_id": i * 1000, "image_id": i, "question": "Is it?"} for i in images]
        official.write(VQA.format(name), {"questions": questions})
    official.pack("test.zip", [f"test2015/COCO_test2015_{i:012d}.jpg" for i in (701, 702)])


TEN = ["red"] * 4 + ["blue"] * 3 + ["Red", "green", "green"]


def test_answers_of_vqa_are_classes_from_nine_questions_on(official):
    # "red": 8 of train and 1 of val; "blue": 8; "2": nine, as "two" and "2"; none else has nine.
    answers = [TEN] * 8 + [["blue"] * 10] * 8 + [["two"] * 10] * 5 + [["2"] * 10] * 4
    vqa(official, answers)
    said = official.convert("vqa")
    assert official.classes() == ["2", "red"]
    assert "2 answers, the official preprocessing has 3,129" in said
    # 8 with "blue" alone, and 5 with "two", which is compared as it is.
    assert "13 of 25 training questions have no answer of the list" in said
    train = official.table("train")
    assert train[0] == {
        "question_id": "1000", "image": "train2014/COCO_train2014_000000000001.jpg",
        "question": "What is it, 1?", "refs": "red|!+1|!+1.0", "answers": json.dumps(TEN),
    }  # fmt: skip
    assert len(train) == 12
    assert [row["refs"] for row in official.table("val")] == ["red|!+1|!+1.0", ""]
    assert list(official.table("test")[0]) == ["question_id", "image", "question"]
    assert [row["question_id"] for row in official.table("test-dev")] == ["702000"]


def test_a_ready_list_of_answers_gives_the_order_and_confidences(official, tmp_path):
    vqa(official, [TEN])
    names = tmp_path / "ans2label.json"
    names.write_text('{"green": 0, "blue": 1, "red": 2, "Red": 3}')
    official.convert("vqa", "--classes", names)
    assert official.classes() == ["green", "blue", "red", "Red"]
    refs = "red|!+2|!+1.0&&blue|!+1|!+0.9&&Red|!+3|!+0.3&&green|!+0|!+0.6"
    assert official.table("train")[0]["refs"] == refs


def test_trainval_and_minival_share_no_image(official, tmp_path):
    vqa(official, [TEN])
    images = range(501, 701)
    questions = [{"question_id": i, "image_id": i, "question": "?"} for i in images]
    annotations = [
        {"question_id": i, "multiple_choice_answer": "red", "answers": [{"answer": "red"}] * 10}
        for i in images
    ]
    official.write(VQA.format("val2014"), {"questions": questions})
    official.write("v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    official.pack("val2014.zip", [f"val2014/COCO_val2014_{i:012d}.jpg" for i in images])
    (tmp_path / "list.txt").write_text("red\n")
    official.convert("vqa", "--classes", tmp_path / "list.txt")
    trainval, minival = (
        {r["image"] for r in official.table(name)} for name in ("trainval", "minival")
    )
    assert len(minival) == 9  # about one in twenty, always the same
    assert len(trainval) == 201 - 9
    assert not trainval & minival


def test_questions_without_annotations_are_refused(official):
    vqa(official, [TEN])
    official.write(VQA.format("train2014"), {"questions": []})
    assert "1 questions of train lack an annotation" in official.fail("vqa")


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The dog", "dog"), ("two", "2"), ("none", "0"), ("dont know", "don't know"),
        ("black-white", "black white"), ("black - white", "black white"), ("1,000", "1000"),
        ("3.5", "3.5"), ("st. john", "st john"), ("yes.", "yes"), ("what?", "what"),
        ("couldnt've", "couldn't've"), ("a", ""),
    ],
)  # fmt: skip
def test_answers_are_normalised_as_for_the_metric(answer, normal):
    assert vqa_answers.normalise_answer(answer) == normal


def test_confidence_rises_with_the_people_who_agree():
    answers = ["a"] * 1 + ["b"] * 2 + ["c"] * 3 + ["d"] * 4 + ["e"] * 5
    expected = {"a": "0.3", "b": "0.6", "c": "0.9", "d": "1.0", "e": "1.0"}
    assert vqa_answers.confidences(answers) == expected


def nlvr2(official, **changes):
    for i, name in enumerate(("train", "dev", "test1")):
        example = {
            "sentence": "Both images show dogs.", "label": ("True", "False")[i % 2],
            "identifier": f"{name}-10{i}-2-1", "left_url": "", "right_url": "",
        }  # fmt: skip
        folder = f"images/{name}"
        if name == "train":
            example |= {"directory": 17} | changes
            folder = "images/train/17"
        official.write(f"data/{name}.json", json.dumps(example) + "\n")
        official.pack(f"{name}.zip", [f"{folder}/{name}-10{i}-2-img{k}.png" for k in range(2)])


def test_statements_of_nlvr2_have_two_images(official):
    nlvr2(official)
    official.convert("nlvr2")
    assert official.table("train") == [
        {
            "text": "Both images show dogs.", "image1": "images/train/17/train-100-2-img0.png",
            "image2": "images/train/17/train-100-2-img1.png", "label": "True",
        }
    ]  # fmt: skip
    assert official.table("val")[0]["label"] == "False"
    assert official.classes() == ["True", "False"]
    official.check_files("test", "image1", "image2")


def test_faults_of_nlvr2_are_refused(official):
    nlvr2(official, label="Maybe")
    assert "train-100-2-1 has label 'Maybe'" in official.fail("nlvr2")
    official.write("data/train.json", '{"sentence": "a"}\n{"cut')
    assert "train.json is not in the official format" in official.fail("nlvr2")


def test_all_sets_are_listed_with_their_files(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["task_tables", "--list"])
    assert tool.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(tool.SETS) == 14
    assert all(name in tool.__doc__ for name in tool.SETS)
