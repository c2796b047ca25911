import json

import pytest

from mmonepeace.datasets.manifest import ManifestError, read_manifest

PAIR = {"image": "image", "text": "caption"}
RECORDS = [
    {"image": "a.png", "caption": 'the "quoted" dog', "sound": "a.ogg"},
    {"image": "b.png", "caption": "a cat", "sound": ""},
    {"image": "", "caption": "nothing", "sound": "c.ogg"},
]


@pytest.fixture(params=["tsv", "jsonl"])
def manifest(request, tmp_path):
    """The same records in both formats."""
    path = tmp_path / f"train.{request.param}"
    if request.param == "jsonl":
        lines = [json.dumps({k: v for k, v in r.items() if v}) for r in RECORDS]
    else:
        lines = ["\t".join(RECORDS[0]), *("\t".join(r.values()) for r in RECORDS)]
    path.write_text("\n".join([*lines, ""]))
    return path


def test_both_formats_give_the_rows_that_have_all_columns(manifest):
    assert read_manifest(manifest, PAIR) == [
        {"image": "a.png", "text": 'the "quoted" dog'},
        {"image": "b.png", "text": "a cat"},
    ]
    assert len(read_manifest(manifest, {"text": "caption"})) == 3
    assert len(read_manifest(manifest, {**PAIR, "audio": "sound"})) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video": "image"}, "choose from"),
        ({}, "choose from"),
        ({"image": "picture", "text": "words"}, "no column picture, words; there is image, capt"),
    ],
)
def test_unknown_modalities_and_columns_are_named(manifest, columns, message):
    with pytest.raises(ManifestError, match=message):
        read_manifest(manifest, columns)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "image\tcaption\n", "no row has image and caption"),
        ("a.tsv", "", "no column caption, image; there is nothing"),
        ("a.jsonl", '{"image": "", "caption": ""}\n', "no row"),
        ("a.jsonl", '\n{"image": "a", "caption"\n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is list"),
        ("a.jsonl", '{"image": "a", "caption": ["b"]}\n', r"line 1: caption is \['b'\]"),
        ("a.tsv", b"image\tcaption\na\t\xff\n", "codec"),
    ],
)
def test_errors_name_the_file_and_the_line(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(path, PAIR)
    assert str(path) in str(caught.value)


def test_rows_longer_than_the_header_are_read(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("image\tcaption\na.png\ta dog\textra\n")
    assert read_manifest(path, PAIR) == [{"image": "a.png", "text": "a dog"}]


def test_incomplete_rows_are_kept_on_demand(manifest, tmp_path):
    columns = {"audio": "sound", "image": "image"}
    assert read_manifest(manifest, columns, complete=False) == [
        {"audio": "a.ogg", "image": "a.png"},
        {"image": "b.png"},
        {"audio": "c.ogg"},
    ]
    (tmp_path / "empty.tsv").write_text("image\tcaption\n\t\n")
    with pytest.raises(ManifestError, match="no row has image or caption"):
        read_manifest(tmp_path / "empty.tsv", PAIR, complete=False)
