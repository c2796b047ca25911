import pytest

from mmonepeace.datasets import PairDataset

HEADER = "image\tcaption\tsound\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(HEADER + 'a.png\tthe "quoted" dog\ta.ogg\nb.png\ta cat\t\n\tnothing\tc.ogg\n')
    return path


def build(table, **columns):
    return PairDataset(table.name, columns, data_root=str(table.parent), pipeline=[])


def test_rows_become_records_with_paths_below_the_data_root(table):
    dataset = build(table, image="image", text="caption")
    assert len(dataset) == 2
    record = dataset.get_data_info(0)
    assert record["img_path"] == str(table.parent / "a.png")
    assert record["text"] == 'the "quoted" dog'
    assert record["sample_idx"] == 0


def test_rows_that_lack_a_column_are_left_out(table):
    assert len(build(table, audio="sound", text="caption")) == 2
    assert len(build(table, image="image", audio="sound", text="caption")) == 1


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"video": "image"}, "choose from"), ({"image": "picture"}, "no column picture"), ({}, "for")],
)
def test_unknown_modalities_and_columns_are_named(table, columns, words):
    with pytest.raises(ValueError, match=words):
        build(table, **columns)


def test_an_empty_table_is_refused(table):
    table.write_text(HEADER)
    with pytest.raises(ValueError, match="no row"):
        build(table, image="image")
