"""Training on TFDS data sets and seqio tasks, as `vidgen train` builds it from their gin files."""

import json

import numpy as np
import pytest
from small_stage import SMALL

from vidgen.config import gin_utils
from vidgen.data.sources.seqio_source import SeqioSource, import_seqio
from vidgen.data.sources.tfds_source import TfdsSource
from vidgen.train.train import Train

pytestmark = pytest.mark.usefixtures("kept_programs", "shared_steps")

UCF101 = {"a person applying eye makeup", "a person shooting with a bow and arrow"}


def built(folder, layer, *bindings, steps):
    (folder / "small.gin").write_text(SMALL)
    named = ["runs/train.gin", "experiments/imagen_base_tiny.gin", layer, folder / "small.gin"]
    values = {"MODEL_DIR": str(folder / "m"), "BATCH_SIZE": 2, "TRAIN_STEPS": steps}
    values |= {"CHECKPOINT_EVERY": 10, "Train.log_every": 1}
    flags = [f"{name}={value!r}" for name, value in values.items()]
    with gin_utils.session([str(name) for name in named], [*flags, *bindings]):
        return gin_utils.build(Train)


def losses(folder):
    lines = (folder / "m" / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


@pytest.mark.parametrize("name", ["ucf101", "bair", "moving_mnist"])
def test_tfds(name, tfds_sets, tmp_path):
    # Almost three passes of six clips.
    run = built(tmp_path, f"data/{name}.gin", f"TFDS_DIR='{tfds_sets}'", steps=8)
    source = run.dataset.source
    assert isinstance(source, TfdsSource) and run.held_out is run.sample_writer is None
    if name == "ucf101":
        assert set(source.captions()) > UCF101
    assert int(run().step) == 8
    found = losses(tmp_path)
    assert sorted(found) == list(range(1, 9)) and np.isfinite(list(found.values())).all()


def test_seqio_goes_on_to_the_same_numbers(tmp_path):
    seqio, _ = import_seqio()
    import seqio_sets  # and with it TensorFlow, which no other worker has to load

    for kind in ("whole", "halves"):
        (tmp_path / kind).mkdir()
    seqio_sets.register(tmp_path)
    try:
        flags = ("SEQIO_NAME='numbers'", "SEQIO_MODULES=()", "SeqioSource.parts=4")
        run = built(tmp_path / "whole", "data/seqio.gin", *flags, steps=20)
        assert isinstance(run.dataset.source, SeqioSource)
        run()
        built(tmp_path / "halves", "data/seqio.gin", *flags, steps=10)()
        built(tmp_path / "halves", "data/seqio.gin", *flags, steps=20)()
    finally:
        for name in seqio_sets.NAMES:
            seqio.TaskRegistry.remove(name)
    whole, halves = losses(tmp_path / "whole"), losses(tmp_path / "halves")
    assert sorted(whole) == list(range(1, 21)) and np.isfinite(list(whole.values())).all()
    assert halves == whole
