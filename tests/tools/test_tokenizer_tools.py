import json
import runpy
import sys

import pytest

from mmonepeace.datasets.tokenizer import ALPHABET, Tokenizer, train
from tests.conftest import ROOT
from tests.processes import run_tool

CAPTIONS = ["A dog runs.", "the dog sleeps", "A cat and a dog"]


@pytest.fixture
def run(monkeypatch, capsys):
    """A tool in this process: exit code, stdout, stderr."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def vocabulary(tmp_path):
    tokens = {token: i for i, token in enumerate(sorted(ALPHABET))}
    (tmp_path / "encoder.json").write_text(json.dumps(tokens))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n")
    (tmp_path / "dict.txt").write_text("".join(f"{i} 1\n" for i in reversed(tokens.values())))
    return tmp_path


def conversion(folder):
    inputs = zip(
        ("--dict", "--bpe", "--encoder"), ("dict.txt", "vocab.bpe", "encoder.json"), strict=True
    )
    options = [part for option, name in inputs for part in (option, folder / name)]
    return ["convert_tokenizer.py", *options, folder / "tokenizer.json"]


def test_converting_writes_one_file_and_warns_of_unofficial_ones(vocabulary):
    done = run_tool(*conversion(vocabulary))
    assert "260 ids" in done.stdout
    for name in ("dict.txt", "vocab.bpe", "encoder.json"):
        assert f"{name} is not the" in done.stderr
    tokenizer = Tokenizer.from_file(vocabulary / "tokenizer.json")
    first = max(ALPHABET)  # of the dictionary
    assert tokenizer._bpe.token_to_id(first) == 4


@pytest.mark.filterwarnings("ignore:.*not the .* of the released models")
def test_converting_names_a_broken_file(vocabulary, run):
    (vocabulary / "dict.txt").write_text("0 1\n777 1\n")
    code, _, err = run(*conversion(vocabulary))
    assert code == 2
    assert err.startswith("error: ")
    assert "777" in err
    assert not (vocabulary / "tokenizer.json").exists()


def test_files_that_are_missing_are_named_with_where_to_get_them(vocabulary, run):
    for name in ("vocab.bpe", "encoder.json"):
        (vocabulary / name).unlink()
    code, _, err = run(*conversion(vocabulary))
    assert code == 2
    missing = ", ".join(str(vocabulary / name) for name in ("vocab.bpe", "encoder.json"))
    assert err.startswith(f"error: {missing}: no such file. Get all three with mmonepeace download")
    assert not (vocabulary / "tokenizer.json").exists()


@pytest.mark.parametrize("kind", ["txt", "tsv", "column"])
def test_training_from_a_file_equals_training_from_a_list(kind, run, tmp_path):
    path, out = tmp_path / f"captions.{'txt' if kind == 'txt' else 'tsv'}", tmp_path / "t.json"
    options = []
    if kind == "txt":
        path.write_text("\n".join(CAPTIONS))
    else:
        column = "text" if kind == "column" else "caption"
        options = ["--column", "text"] if kind == "column" else []
        rows = [f"{i}\t{caption}\t0" for i, caption in enumerate(CAPTIONS)]
        path.write_text("\n".join([f"id\t{column}\tsplit", *rows]) + "\n")
    code, printed, err = run("train_tokenizer.py", path, out, "--vocab-size", "280", *options)
    assert code == 0, err
    expected = train(CAPTIONS, 280)
    assert Tokenizer.from_file(out).encode(CAPTIONS) == expected.encode(CAPTIONS)
    assert f"{expected.vocab_size} ids" in printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id\ttext\n1\ta dog\n", "no column caption"),
        ("id\tcaption\n1\ta\tdog\n", "line 2 has 3 fields, the header has 2"),
        ("", "no column caption"),
        ("id\tcaption\n", "no row has caption"),
    ],
)
def test_training_names_what_is_wrong_with_the_file(content, message, run, tmp_path):
    path = tmp_path / "captions.tsv"
    path.write_text(content)
    code, _, err = run("train_tokenizer.py", path, tmp_path / "t.json", "--vocab-size", "280")
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert not (tmp_path / "t.json").exists()
