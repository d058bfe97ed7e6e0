"""Captions of a film's shots: `benchmarks/shots.py`."""

import csv
import sys
from pathlib import Path

from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import shots  # noqa: E402


def test_each_folder_gets_the_captions_of_its_own_shots(tmp_path):
    names = {"train": ["shot_001.mp4", "shot_012.mp4"], "held_out": ["shot_000.mp4"]}
    for folder, files in names.items():
        (tmp_path / folder).mkdir()
        for name in files:
            (tmp_path / folder / name).touch()
    table = tmp_path / "captions.csv"
    table.write_text('shot,caption\n0,a sky\n1,"a rabbit, gray"\n7,a shot that is too short\n')
    shots.write_captions(table, tmp_path)
    rows = {}
    for folder in names:
        with (tmp_path / folder / "captions.csv").open(newline="") as file:
            rows[folder] = list(csv.DictReader(file))
    assert rows["train"] == [{"file": "shot_001.mp4", "caption": "a rabbit, gray"}]
    assert rows["held_out"] == [{"file": "shot_000.mp4", "caption": "a sky"}]


def test_every_shot_of_the_film_has_a_caption():
    table = Path(shots.__file__).with_name("big_buck_bunny_captions.csv")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["shot"]) for row in rows] == list(range(112))
    assert all(row["caption"] for row in rows)
