import csv
import json
import os
import random
from itertools import chain

import pytest

from mmonepeace.datasets.manifest import ManifestError, read_lines, read_manifest

PAIR = {"image": "image", "text": "caption"}
RECORDS = [
    {"image": "a.png", "caption": 'the "quoted" dog', "sound": "a.ogg"},
    {"image": "b.png", "caption": "a cat", "sound": ""},
    {"image": "", "caption": "nothing", "sound": "c.ogg"},
]


def read(tmp_path, content, columns=PAIR, name="a.tsv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_manifest(path, columns)


def captions(tmp_path, content, name="a.tsv"):
    return [row["text"] for row in read(tmp_path, content, {"text": "caption"}, name)]


@pytest.fixture(params=["tsv", "csv", "jsonl", "JSONL"])
def manifest(request, tmp_path):
    """The same records in all formats."""
    path = tmp_path / f"train.{request.param}"
    if request.param.lower() == "jsonl":
        lines = [json.dumps({k: v for k, v in r.items() if v}) for r in RECORDS]
    else:
        lines = [*map(["\t", ","][request.param == "csv"].join, chain([RECORDS[0]], rows()))]
    path.write_text("\n".join([*lines, ""]))
    return path


def rows():
    return [list(record.values()) for record in RECORDS]


def test_all_formats_give_the_rows_that_have_all_columns(manifest):
    assert read_manifest(manifest, PAIR) == [
        {"image": "a.png", "text": 'the "quoted" dog'},
        {"image": "b.png", "text": "a cat"},
    ]
    assert len(read_manifest(manifest, {"text": "caption"})) == 3
    assert len(read_manifest(manifest, {**PAIR, "audio": "sound"})) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"depth": "image"}, "choose from"),
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
        ("a.tsv", "image,caption\na,b\n", "line 1: its columns are separated by ','; name it .csv"),
        ("a.csv", "image\tcaption\na\tb\n", "separated by '\\\\t'; name it .tsv"),
        ("a.csv", "image;caption\na;b\n", "separated by ';'; save it with tabs"),
        ("a.tsv", "image\tcaption\tcaption\na\tb\tc\n", "line 1 has the column caption more than"),
        ("a.tsv", "image\tcaption\n\na\ta dog\tin snow\n", "line 3 has 3 fields, .* has 2.*a tab"),
        ("a.csv", "image,caption\na,a dog, black\n", "line 2 has 3 fields, .* has 2.*a comma"),
        ("a.tsv", "image\tcaption\na\ta dog\nin snow\n", "line 3 has 1 fields, .* 2.*a line end"),
        ("a.tsv", "image\tcaption\na\tb\tc\nd\te\nf\n", "line 2 .* 1 more such lines: 4"),
        ("a.tsv", "image\tcaption\na\tdo\0g\n", "line 2 has the character NUL"),
        ("a.tsv", "image\tcaption".encode("utf-16-le"), "line 1 has the character NUL.*UTF-16"),
        ("a.tsv", b"\xff\xfea", "not utf-16"),
        ("a.tsv", b"image\tcaption\na\tcaf\xe9\n", r"line 2 is not UTF-8: caption is b'caf\\xe9'"),
        ("a.tsv", 'caption\n"a\nb"\nc "d"\n', "line 2 has a quote that may end lines below"),
        ("a.tsv", 'image\tcaption\na\t"b\nc\td"\n', "line 2 has a quote that may end lines below"),
        ("a.jsonl", '{"image": "", "caption": ""}\n', "no row"),
        ("a.jsonl", '\n{"image": "a", "caption"\n', "line 2 is not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is list, expected an object. Write one object per line"),
        ("a.jsonl", '{"image": "a", "caption": ["b"]}\n', r"line 1 has caption=\['b'\]"),
        ("a.jsonl", '{"image": "a", "caption": 0}\n', "line 1 has caption=0, expected a string"),
        ("a.jsonl", '{"image": "a", "caption": false}\n', "line 1 has caption=False"),
        ("a.jsonl", '{"caption": "a", "caption": "b"}\n', "line 1 .* the key 'caption' twice"),
        ("a.jsonl", '{"image": "a", "caption": "\\ud83d"}\n', "line 1 is not UTF-8: caption"),
        ("a.jsonl", b'{"image": "a", "caption": "caf\xe9"}\n', "line 1 is not UTF-8: caption"),
    ],
)
def test_errors_name_the_file_and_the_line(name, content, message, tmp_path):
    columns = {"text": "caption"} if str(content).startswith("caption") else PAIR
    with pytest.raises(ManifestError, match=message) as caught:
        read(tmp_path, content, columns, name)
    assert str(tmp_path / name) in str(caught.value)


QUOTING = {"minimal": csv.QUOTE_MINIMAL, "all": csv.QUOTE_ALL, "some": csv.QUOTE_NONNUMERIC}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", QUOTING)
@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_tables_are_read_as_csv_writes_them(name, quoting, end, tmp_path):
    draw = random.Random(f"{name} {quoting}")
    parts = ['"', '""', "\t", "\n", "\r", ",", ";", "a dog", "café", "\u2028", "\x85", "\x0b", " "]
    for _ in range(30):
        # Without a last letter, the end of a caption might be taken for blanks.
        written = ["".join(draw.choices(parts, k=draw.randrange(8))) + "z" for _ in range(20)]
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            options = dict(lineterminator=end, quoting=QUOTING[quoting])
            writer = csv.writer(file, delimiter="\t" if name == "a.tsv" else ",", **options)
            writer.writerow(["id", "caption", "image"])
            writer.writerows(
                [i, text, f"{i}.png"] for i, text in enumerate([*written, 'the "end"'])
            )
        rows = read_manifest(path, PAIR)
        assert [row["text"] for row in rows] == [*written, 'the "end"']
        assert rows[7]["image"] == "7.png"


def test_quotes_of_a_table_without_quoting_are_characters(tmp_path):
    written = [
        '"a dog"',
        '"a dog" she said',
        '"lone',
        'a 5" pipe',
        "x",
        'ends"',
        '"',
        '""x""',
        '"" "',
    ]
    table = "\n".join(["image\tcaption", *(f"{i}.png\t{text}" for i, text in enumerate(written))])
    assert captions(tmp_path, table) == written
    # One field that csv wrote, in a table that it did not write.
    table += '\n9.png\t"two ""words""\ton\nlines"\n'
    assert captions(tmp_path, table) == [*written, 'two "words"\ton\nlines']


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufeffcaption\ta\nx\t1\n", ["x"]),
        ("\n \t\ncaption\n\nx\n\t\ny", ["x", "y"]),
        ("caption\ta\rx\t1\ry\t2\r", ["x", "y"]),
        ("caption\ta\r\nx\ry\t2\r\n", ["x\ry"]),
        ("caption\ta\nx\u2028\x85\x0c\x1cy\t2\n", ["x\u2028\x85\x0c\x1cy"]),
        ("caption\ta\nx\t1\t\t\n", ["x"]),
        ("caption\ta\nx\t1\n".encode("utf-16"), ["x"]),
        ("\ufeffcaption\nx\n".encode("utf-16-be"), ["x"]),
        ("caption\nx\n".encode("utf-32"), ["x"]),
        (" caption \nx \n", ["x "]),
        ('caption\n"x"\n"y z"\n', ["x", "y z"]),
    ],
)
def test_what_other_programs_write_is_read(content, expected, tmp_path):
    assert captions(tmp_path, content) == expected


def test_paths_may_be_any_bytes_and_have_no_blanks_around(tmp_path):
    (row,) = read(tmp_path, b"image\tcaption\n caf\xe9.png \ta dog\n")
    assert os.fsencode(row["image"]) == b"caf\xe9.png"
    line = json.dumps({"image": row["image"], "caption": "a dog"})
    assert read(tmp_path, line, name="a.jsonl") == [row]


def test_lines_of_a_text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa dog\r\n\r\na\u2028cat".encode())
    assert list(read_lines(path)) == ["a dog", "", "a\u2028cat"]
    path.write_bytes(b"a\rb")
    assert list(read_lines(path)) == ["a", "b"]
    path.write_bytes(b"a\n\xe9\nb\xe9")
    with pytest.raises(ManifestError, match=r"line 2 is not UTF-8: b'\\xe9\\n'.*lines: 3"):
        list(read_lines(path))


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
