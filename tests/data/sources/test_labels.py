"""Captions from labels: words, templates, tables."""

import json

import pytest

from vidgen.data.sources import labels


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("YoYo", "yo yo"),
        ("Archery", "archery"),
        ("brush_hair", "brush hair"),
        ("air drumming", "air drumming"),
        ("TVWatching", "tv watching"),
        ("Top10List", "top10 list"),
        ("high-five/__wave ", "high five wave"),
        ("7", "7"),
    ],
)
def test_words(label, words):
    assert labels.in_words(label) == words


def test_templates():
    found = labels.captions_of_labels(["HulaHoop", "a{}b"], template="a video of {}.")
    assert found == ("a video of hula hoop.", "a video of a{}b.")
    for wrong in ("a video", "{} and {}"):
        with pytest.raises(ValueError, match="S.template is .*; write one {} where"):
            labels.check_template(wrong, "S.template")


def test_the_table_of_ucf101():
    table = labels.read_table("ucf101")
    assert len(table) == len(set(table.values())) == 101
    assert table["ApplyEyeMakeup"] == "a person applying eye makeup"
    assert all(caption == caption.strip().lower() and caption for caption in table.values())
    assert labels.captions_of_labels(["YoYo"], table=table) == ("a person playing with a yo-yo",)


def test_tables_of_the_user(tmp_path):
    wanted = {"a": "first, of all", "b": "second"}
    (tmp_path / "t.json").write_text(json.dumps(wanted))
    (tmp_path / "t.csv").write_text('label,caption\na,"first, of all"\nb, second \n')
    for suffix in ("json", "csv"):
        assert labels.read_table(str(tmp_path / f"t.{suffix}")) == wanted
    with pytest.raises(ValueError, match="have none for 'c' and 1 more label"):
        labels.captions_of_labels(["a", "c", "d"], table=wanted)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", "[1]"),
        ("t.json", "{"),
        ("t.json", '{"a": 7}'),
        ("t.json", '{"a": ["x", "y"]}'),
        ("t.json", '{"a": null}'),
        ("t.json", '{"a": "x", "a": "y"}'),
        ("t.csv", "a,first\nb,second\n"),
        ("t.csv", "label\na\n"),
        ("t.csv", "label,caption\na,first, of all\n"),
        ("t.csv", 'label,caption\na,"first\nb,second\n'),
        ("t.csv", "label,caption\na,first\na,second\n"),
        ("t.csv", "label,caption\na,\n"),
    ],
)
def test_what_is_no_table(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is no table"):
        labels.read_table(str(tmp_path / name))


def test_no_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no table .*t\.json .*ucf101"):
        labels.read_table(str(tmp_path / "t.json"))
