"""The search for the best way to train, with a compiler whose word is known.

`plan/test_tpu.py` searches with the real one.
"""

import dataclasses
import os
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest
import ways_to_train as ways
from jax.errors import JaxRuntimeError

from vidgen.plan import fit, programs
from vidgen.plan.candidates import Estimator
from vidgen.plan.estimate import Plan
from vidgen.plan.fit import Fit
from vidgen.text.encoder import NoText

APART = fit.apart


def test_slices_by_the_number_of_their_chips():
    assert fit.topology("v5p:64") == "v5p:4x4x4" and fit.topology("v6e:256") == "v6e:16x16"
    assert fit.topology("v4:1024") == "v4:8x8x16" and fit.topology("v5p:64*4") == "v5p:4x4x4*4"


@pytest.mark.parametrize("name", ["v5p", "v5p:63", "v9:64", "v6e:1024", "v5p:64*x"])
def test_a_slice_that_is_not_to_be_had(name):
    with pytest.raises(ValueError, match=rf"--chips={name.replace('*', '.')} .* like v5p:64"):
        fit.topology(name)


@pytest.fixture
def search(monkeypatch):
    """Searches on four chips with `peak(trainer)` as the compiler's word; returns the report."""
    devices = [SimpleNamespace(device_kind="TPU v5")] * 4
    monkeypatch.setattr(programs, "topology", lambda name: devices)
    monkeypatch.setattr(programs.Elsewhere, "of", lambda partitioner, devices: partitioner)

    def run(peak, compiles=3, memory=1):
        made = ways.estimator()
        made.chip = dataclasses.replace(ways.CHIP, memory=memory)
        monkeypatch.setattr(Fit, "_estimator", lambda self, devices: made)
        asked = []

        def training_step(trainer, batch, useful):
            asked.append((trainer.partitioner.mesh_shape, trainer.microbatches))
            need = peak(trainer)
            fits = need <= memory * 2**30
            limits = {
                "seconds": {"compute": 1.0, "memory": 0.5, "links": 0.0, "network": 0.0},
                "mfu_overlapped": 0.9,
                "mfu_alone": 0.6,
                "waits_for": "compute",
            }
            return {
                "fits": fits,
                "peak_bytes_per_device": need,
                "device_bytes": memory * 2**30,
                "bound": limits if fits else None,
            }

        monkeypatch.setattr(programs, "training_step", training_step)
        monkeypatch.setattr(fit, "apart", lambda function, *arguments: function(*arguments))
        plan = Plan(
            trainers=[ways.trainer()],
            text_encoder=NoText(length=3, dim=8),
            batch_size=8,
        )
        found = Fit(plan=plan, meshes=ways.MESHES, chips="v5p:4", compiles=compiles)
        monkeypatch.setattr(Estimator, "trainer_of", trainer_of_toy, raising=True)
        return found.report(), asked

    return run


def trainer_of_toy(self, candidate):
    """As `Estimator.trainer_of`; a toy has nothing that could run again."""
    mesh = dataclasses.replace(self.meshes[candidate.mesh], mesh_shape=candidate.shape)
    return dataclasses.replace(self.trainer, partitioner=mesh, microbatches=candidate.microbatches)


def test_the_best_estimate_that_fits_is_compiled_and_wins(search):
    report, asked = search(lambda trainer: 2**20)
    best = report["best"]
    assert best["compiled"] and best["peak"] == 2**20 and best["bound"]["mfu_alone"] == 0.6
    assert 1 <= report["compiled"] == len(asked) <= 3 < report["candidates"]
    assert asked[0][1] == 1  # nothing is gathered twice
    whys = [row["why"] for row in report["lost"]]
    assert any("computes more" in why for why in whys), whys
    assert f'--gin.MESH_SHAPE="{asked[0][0]}"' in best["flags"]


def test_what_does_not_fit_is_said_and_the_next_is_tried(search):
    report, asked = search(lambda trainer: 2**31 if trainer.microbatches == 1 else 2**20)
    assert asked[0][1] == 1 and asked[-1][1] > 1
    assert report["best"]["way"].split(" in ")[1][0] != "1"
    assert any(row["why"] == "does not fit: 2.0 GiB of 1.0 GiB" for row in report["lost"])


def test_where_nothing_fits_there_is_no_best(search):
    report, asked = search(lambda trainer: 2**40, compiles=2)
    assert report["best"] is None and report["compiled"] == len(asked) == 4  # two more than asked
    assert "none of those that were compiled fits" in fit.table(report)


def test_the_table_tells_it_all(search):
    report, _ = search(lambda trainer: 2**20)
    text = fit.table(report)
    assert f"toy on v5p:4 (v5p:2x2x1): {report['candidates']} ways estimated" in text
    assert "MFU at most 90.0%, 60.0% where nothing overlaps" in text
    assert text.count("estimated, MFU") + text.count("compiled, MFU") == len(report["lost"])


def test_wrong_settings_are_named(search):
    plan = Plan(trainers=[ways.trainer()], text_encoder=NoText(length=3, dim=8), batch_size=8)
    settings = {"meshes": ways.MESHES, "chips": "v5p:4"}
    with pytest.raises(ValueError, match="--compiles=0"):
        Fit(plan=plan, compiles=0, **settings)
    with pytest.raises(ValueError, match="--fit .*one BATCH_SIZE"):
        Fit(plan=dataclasses.replace(plan, trainers=[ways.trainer()] * 2), **settings)


def an_internal_error():
    raise JaxRuntimeError("INTERNAL: Expected instruction to have another shape")


@pytest.mark.parametrize("end", [lambda: APART(os.abort), an_internal_error])
def test_a_compiler_that_breaks_off_loses_its_candidate_alone(search, end):
    tried = []

    def breaks_off_once(trainer):
        tried.append(trainer)
        if len(tried) == 1:
            end()  # libtpu does either
        return 2**20

    report, asked = search(breaks_off_once)
    assert report["best"] and len(asked) >= 2
    (broken,) = (row for row in report["lost"] if row["compiled"] and row["bound"] is None)
    assert broken["why"] == "the compiler broke off" and "broke off" in fit.table(report)
    # Nor is the same part of a device compiled on a mesh of another shape.
    (data, fsdp, _), parts = broken["shape"], broken["microbatches"]
    for row in (row for row in report["lost"] if row["compiled"] and row is not broken):
        assert row["batch"] / row["shape"][0] / row["shape"][1] / row["microbatches"] != (
            broken["batch"] / data / fsdp / parts
        )


def test_a_process_of_its_own_returns_a_report():
    assert fit.apart(dict, {"fits": True}) == {"fits": True}
    with pytest.raises(BrokenProcessPool):
        fit.apart(os.abort)
