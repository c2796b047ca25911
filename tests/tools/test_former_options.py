"""Options that were renamed: the former names still work, and help shows the new ones only."""

import importlib

import pytest

RENAMED = [
    ("zero_shot", "CKPT --table t.tsv --data-root d", "CKPT --tsv t.tsv --root d"),
    ("zero_shot", "CKPT --images a --classes a,b --top-k 2", "CKPT --images a --classes a,b --top 2"),
    ("predict", "CKPT --images a --top-k 2", "CKPT --images a --top 2"),
    ("predict", "CKPT --table t.tsv --columns image=a --data-root d", "CKPT --table t.tsv --columns image=a --root d"),
    ("search", "INDEX --text a --top-k 2", "INDEX --text a --k 2"),
    ("probe", "CKPT --modality image --train t --val v --kind knn --out o --label-column l --data-root d",
     "CKPT --modality image --train t --val v --kind knn --out o --label l --root d"),
    ("evaluate_retrieval", "CKPT --table t --columns image=a text=b --data-root d", "CKPT --table t --columns image=a text=b --root d"),
    ("train_tokenizer", "a b --vocab-size 300 --text-column c", "a b --vocab-size 300 --column c"),
    ("train", "c.py --dtype bf16", "c.py --bf16"),
    ("train", "c.py --dtype fp16", "c.py --amp"),
    ("pretrain", "c.py --dtype bf16", "c.py --bf16"),
    ("test", "c.py CKPT --dtype bf16", "c.py CKPT --bf16"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "now", "before"), RENAMED)
def test_former_options_mean_the_same(command, now, before, monkeypatch, capsys):
    module = importlib.import_module(f"mmonepeace.commands.{command}")

    def parsed(words):
        monkeypatch.setattr("sys.argv", ["mmonepeace", *words.split()])
        return module.parse_args()

    assert parsed(now) == parsed(before)
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out.split()
    gone = {word for word in before.split() if word.startswith("--")} - set(now.split())
    assert not gone & {word.strip("[],") for word in shown}
