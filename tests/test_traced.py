"""Programs and shapes that an earlier run traced: found again, told apart, and left alone."""

import copy
import dataclasses
import functools
import pickle
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_unet

from vidgen import traced
from vidgen.config.gin_sessions import Sessions
from vidgen.diffusion import sampling, schedules
from vidgen.diffusion.guidance import GuidanceSpec
from vidgen.diffusion.samplers import Ddim, SamplerSpec, _at_times
from vidgen.diffusion.schedules import Cosine
from vidgen.imagen.blocks import LevelSpec
from vidgen.imagen.stage import DiffusionStage
from vidgen.inference import stages
from vidgen.nn import axes
from vidgen.phenaki.cvivit import CViViT
from vidgen.phenaki.decoding import DecodingSpec
from vidgen.phenaki.masked_model import MaskedVideoModel
from vidgen.phenaki.maskgit import MaskGIT
from vidgen.phenaki.quantizer import VectorQuantizer
from vidgen.phenaki.tokenizer import VideoTokenizer
from vidgen.train import fresh
from vidgen.train.optimizers import AdamW, LearningRate
from vidgen.train.partitioning import Partitioner, unbox
from vidgen.train.trainer import Trainer
from vidgen.types import ByValue, VideoShape

TIMES = np.linspace(1.0, 0.0, 5, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class OfATest:
    number: int = 1


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """An empty folder of programs, and the names of those that are traced.

    What the compiler makes of them is kept where it is for all tests.
    """
    names = []
    export, eval_shape = jax.export.export, jax.eval_shape

    def counting_shapes(function, *args):
        if isinstance(function, functools.partial):  # those of `traced`; Linen asks for others
            names.append(function.func.__name__)
        return eval_shape(function, *args)

    monkeypatch.setattr(traced, "enabled", True)
    monkeypatch.setattr(traced, "_programs", {})
    monkeypatch.setattr(traced, "_FOLDER", str(tmp_path / "traced"))
    monkeypatch.setattr(jax.export, "export", lambda f: names.append(f.__name__) or export(f))
    monkeypatch.setattr(jax, "eval_shape", counting_shapes)
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path, names
    jax.config.update("jax_compilation_cache_dir", before)


def files(folder):
    return sorted(path for path in (folder / "traced").rglob("*") if path.is_file())


def at_times(schedule, times, **how):
    return traced.call(_at_times, ByValue(schedule), times, static=(0,), **how)


def test_a_program_is_traced_once_and_read_by_the_next_process(counted, monkeypatch):
    folder, names = counted
    for _ in range(3):
        monkeypatch.setattr(traced, "_programs", {})  # as in a new process
        np.testing.assert_array_equal(
            at_times(Cosine(), TIMES), _at_times(ByValue(Cosine()), TIMES)
        )
    assert names == ["_at_times"] and len(files(folder)) == 1


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        (Cosine(shift=1.0), TIMES),
        (Cosine(logsnr_min=-15.0), TIMES),
        (Cosine(), TIMES[1:]),
        (Cosine(), TIMES.astype(np.float16)),
    ],
)
def test_other_settings_shapes_and_dtypes_are_other_programs(counted, schedule, times):
    folder, _ = counted
    at_times(Cosine(), TIMES)
    expected = _at_times(ByValue(schedule), times)
    np.testing.assert_array_equal(at_times(schedule, times), expected)
    assert len(files(folder)) == 2


def test_settings_of_jax_and_flags_of_the_compiler_count(counted, monkeypatch):
    folder, _ = counted
    at_times(Cosine(), TIMES)
    with jax.default_matmul_precision("float32"):  # of this thread alone
        at_times(Cosine(), TIMES)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    at_times(Cosine(), TIMES)
    assert len(files(folder)) == 3


def test_another_source_replaces_the_programs(counted, monkeypatch):
    folder, names = counted
    at_times(Cosine(), TIMES)
    (first,) = files(folder)
    monkeypatch.setattr(traced, "_source", lambda: "edited")
    at_times(Cosine(), TIMES)
    (second,) = files(folder)
    assert second.parent.name == "edited" != first.parent.name and second.name == first.name
    assert names == ["_at_times"] * 2


@pytest.mark.parametrize("damage", [b"", b"no pickle", pickle.dumps("x")[:-1]])
def test_a_damaged_file_is_written_again(counted, monkeypatch, damage):
    folder, names = counted
    expected = at_times(Cosine(), TIMES)
    (path,) = files(folder)
    whole = path.read_bytes()
    path.write_bytes(damage)
    monkeypatch.setattr(traced, "_programs", {})
    np.testing.assert_array_equal(at_times(Cosine(), TIMES), expected)
    assert names == ["_at_times"] * 2  # its text says from which line it was called
    assert pickle.loads(path.read_bytes())[1:] == pickle.loads(whole)[1:]


def test_a_function_that_is_not_jitted(counted):
    folder, _ = counted

    def own(times):
        return 2 * times

    assert traced.program(own, TIMES) is own and not files(folder)
    np.testing.assert_array_equal(traced.call(own, TIMES), 2 * TIMES)
    logsnrs = jnp.asarray(TIMES)
    for _ in range(2):
        found = traced.call(schedules.alpha_sigma, logsnrs)
        np.testing.assert_allclose(found, schedules.alpha_sigma(logsnrs), rtol=1e-6)


@pytest.mark.parametrize("error", [ValueError, NotImplementedError, ImportError])
def test_a_program_that_cannot_be_exported_runs_as_it_is(counted, monkeypatch, error):
    def refused(jitted):
        raise error("no portable form")

    monkeypatch.setattr(jax.export, "export", refused)
    assert traced.program(_at_times, ByValue(Cosine()), TIMES, static=(0,)) is _at_times
    assert not files(counted[0])


def test_arrays_are_not_kept(counted):
    times = jnp.asarray(TIMES)
    alive = weakref.ref(times)
    at_times(Cosine(), times)
    del times  # without a search for garbage
    assert alive() is None


def test_a_folder_that_cannot_be_written_keeps_nothing(counted):
    folder, names = counted
    (folder / "traced").write_text("a file")
    expected = _at_times(ByValue(Cosine()), TIMES)
    np.testing.assert_array_equal(at_times(Cosine(), TIMES), expected)
    assert names == ["_at_times"] and (folder / "traced").read_text() == "a file"


@pytest.mark.parametrize(
    "how",
    ["off", "no folder", "store", "edited", "gone", "archive", "traced", "mesh", "other device"],
)
def test_where_nothing_can_be_kept_the_function_itself_runs(counted, monkeypatch, how):
    folder, names = counted
    if how == "off":
        monkeypatch.setattr(traced, "enabled", False)
    if how == "no folder":
        jax.config.update("jax_compilation_cache_dir", None)
    if how == "store":
        jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
    if how == "edited":  # and perhaps loaded again by this process, perhaps not
        path = next(iter(traced._SOURCES))
        monkeypatch.setitem(traced._SOURCES, path, (0, 0))
    if how == "gone":
        monkeypatch.setitem(traced._SOURCES, folder / "traced.py", (0, 0))
    if how == "archive":
        monkeypatch.setattr(traced, "_SOURCES", {})
    if how == "other device":
        monkeypatch.setattr(jax, "local_devices", lambda: [None])
    schedule, program = ByValue(Cosine()), functools.partial(traced.program, static=(0,))
    if how == "traced":
        jax.make_jaxpr(lambda u: names.append(program(_at_times, schedule, u) is _at_times))(TIMES)
        assert names == [True]
    elif how == "mesh":
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2,), ("data",))):
            assert program(_at_times, schedule, TIMES) is _at_times
    else:
        assert program(_at_times, schedule, jnp.asarray(TIMES)) is _at_times
    assert not files(folder)


NUMBERS = (1, 1.0, True, "1", b"1", np.float32(1), np.float64(1), 1 + 0j)
FAMILY = [
    None,
    *NUMBERS,
    *[(number,) for number in NUMBERS],
    [1],
    ((1,),),
    {"a": 1},
    {"a": 1.0},
    {"b": 1},
    jnp.float32,
    np.dtype("float32"),
    float("nan"),
    Cosine,
    Cosine(),
    Cosine(shift=2.0),
    Cosine(shift=1.0),
    SamplerSpec(),
    SamplerSpec(kind=Ddim()),
    sampling.walk_of,
    functools.partial(sampling.walk_of, 3),
    functools.partial(sampling.walk_of, first=3),
    jax.tree_util.Partial(sampling.walk_of, 3),
    VideoShape(frames=1, height=2, width=3),
    VideoShape(frames=1, height=3, width=2),
    jax.ShapeDtypeStruct((2,), "float32"),
    jax.ShapeDtypeStruct((2, 1), "float32"),
    jax.ShapeDtypeStruct((2,), "int32"),
]


def test_different_settings_have_different_descriptions():
    texts = [traced.described(value) for value in FAMILY]
    assert len(set(texts)) == len(texts)
    assert texts == [traced.described(value) for value in copy.deepcopy(FAMILY)]


@pytest.mark.parametrize(
    "value",
    [
        lambda x: x,
        functools.partial(lambda x: x, 1),
        jax.jit(Cosine().__call__),
        object(),
        np.zeros(2),
        jnp.zeros(2),
        OfATest(),
        OfATest,
        [OfATest()],
        {"a": (object(),)},
        ByValue(np.ones(2)),
        Cosine().__call__,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_told_apart_has_no_description(value):
    with pytest.raises(ValueError, match="no description"):
        traced.described(value)


def test_an_array_among_settings_counts_by_its_shape_where_it_is_an_argument():
    array = jnp.zeros((2, 3))
    assert "(2, 3) float32" in traced.described([array], frozenset([id(array)]))


def test_shapes_are_those_of_the_function(counted):
    folder, names = counted
    model = masked_model()
    first, again = (fresh.boxed_shapes(model, model.batch_spec(2, 4, 8)) for _ in range(2))
    assert names == ["_fresh"] and len(files(folder)) == 1
    assert jax.tree.structure(first) == jax.tree.structure(again)
    assert jax.tree.leaves(first) == jax.tree.leaves(again) and jax.tree.leaves(first)
    expected = jax.eval_shape(model.init, jax.random.key(0), model.batch_spec(2, 4, 8))
    assert jax.tree.structure(again) == jax.tree.structure(expected)
    assert jax.tree.leaves(again) == jax.tree.leaves(expected)
    fresh.boxed_shapes(model, model.batch_spec(2, 4, 9))
    assert names == ["_fresh"] * 2 and len(files(folder)) == 2


@pytest.mark.parametrize("name", ["imagen_demo", "imagen_distilled", "phenaki_demo", "film_demo"])
def test_programs_of_the_models_that_come_with_vidgen_are_kept(name):
    sessions = Sessions(["runs/generate.gin"], [], [])
    for folder in stages.find(name):
        model = stages.build_trained(sessions, stages.Stage, folder).model
        assert model.name in traced.described((model, model.sampler, model.guidance))


def diffusion_stage():
    level = LevelSpec(width=8, blocks=1, text="attention", head_dim=8)
    return DiffusionStage(
        shape=VideoShape(frames=2, height=4, width=4),
        network=tiny_unet.network((level,), cond_width=8, cond_layers=1, pool_queries=1),
        sampler=SamplerSpec(kind="ddim", steps=2),
        guidance=GuidanceSpec(weight=1.0, momentum=0.5),
    )


def masked_model():
    shape = VideoShape(frames=3, height=8, width=8)
    autoencoder = CViViT(patch=(2, 4, 4), width=8, mlp=8, heads=2)
    tokenizer = VideoTokenizer(
        shape=shape, autoencoder=autoencoder, quantizer=VectorQuantizer(codes=8, dim=4)
    )
    network = MaskGIT(codes=8, grid=(2, 2, 2), layers=1, width=8, heads=2, mlp=8)
    sampler = DecodingSpec(steps=2)
    return MaskedVideoModel(shape=shape, tokenizer=tokenizer, network=network, sampler=sampler)


def weights(model):
    """Of all parts, as `generate` reads them."""
    parts = {name: weights(part) for name, part in model.frozen_networks.items()}
    shapes = unbox(fresh.boxed_shapes(model, model.batch_spec(1, 4, 8)))
    own = jax.tree.map(lambda x: tiny_unet.normal(0, *x.shape), shapes)
    return model.merge_params(own, parts)


@pytest.mark.parametrize(
    ("make", "programs"),
    [
        (diffusion_stage, ["_conditioned_noise", "_step"]),
        (masked_model, ["encode_known", "_step", "decode_known"]),
    ],
)
def test_clips_are_the_same_from_kept_programs(counted, monkeypatch, make, programs):
    """Also those of an equal model, which a second command builds anew."""
    folder, names = counted
    text = tiny_unet.text(b=1, s=4, d=8)
    params, keys = weights(make()), jax.random.split(jax.random.key(0), 1)
    names.clear()
    before = len(files(folder))

    def clip():
        video = make().generate(params, text, None, keys, on_step=lambda *_: None)
        return np.asarray(video)

    first = clip()
    assert names == programs and len(files(folder)) == before + len(programs)
    monkeypatch.setattr(traced, "_programs", {})
    np.testing.assert_array_equal(clip(), first)
    assert names == programs
    monkeypatch.setattr(traced, "enabled", False)
    np.testing.assert_array_equal(clip(), first)


def trainer(**settings):
    adam = AdamW(learning_rate=LearningRate(peak=1e-3), **settings)
    rules = [(name, None) for name in axes.AXES]
    mesh = Partitioner(rules=rules, mesh_shape=(1, 1, 1), device_count=1)
    return Trainer(model=diffusion_stage(), partitioner=mesh, optimizer=adam)


def trained(t, steps=2):
    """The state after some steps, all metrics, and the operations of a step."""
    spec = t.model.batch_spec(2, 4, 8)
    arrays = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), spec)
    batch, key = t.partitioner.to_global(arrays), jax.random.key(1)
    state, metrics = t.init_state(jax.random.key(0), spec), []
    work = t.step_flops(state, None, batch, key)
    for _ in range(steps):
        before = jax.tree.leaves(state)
        state, found = t.train_step(state, None, batch, key)
        assert all(x.is_deleted() for x in before if x.ndim)  # their memory is used again
        metrics.append(found)
    evaluated = t.eval_step(state.inference_params(), None, batch, key)
    return state, [*metrics, evaluated], work


def test_a_training_goes_on_with_the_kept_step(counted, monkeypatch):
    """The same numbers, in the same layout, from a step traced by this process or another."""
    names = counted[1]
    first, *of_first = trained(trainer())
    assert [name for name in names if name.endswith("_step")] == ["_train_step", "_eval_step"]
    monkeypatch.setattr(traced, "_programs", {})
    again, *of_again = trained(trainer())
    assert [name for name in names if name.endswith("_step")] == ["_train_step", "_eval_step"]
    monkeypatch.setattr(traced, "enabled", False)
    plain, *of_plain = trained(trainer())
    for found in (again, *of_again), (plain, *of_plain):
        jax.tree.map(np.testing.assert_array_equal, (first, *of_first), found)
        same = jax.tree.map(lambda x, y: x.sharding == y.sharding, first, found[0])
        assert all(jax.tree.leaves(same))
    assert of_first[1] > 0


def test_a_step_of_other_settings_is_another_program(counted):
    folder, names = counted
    trained(trainer(), steps=1)
    before = len(files(folder))
    trained(trainer(beta1=0.8), steps=1)
    assert names.count("_train_step") == 2
    assert len(files(folder)) == before + 2  # and the held-out loss, which is a method of it


def test_a_step_ends_with_its_training(counted):
    t = trainer()
    trained(t, steps=1)
    (step,) = [x for x in t._cached.values() if "donated" in getattr(x, "options", {})][:1]
    alive = weakref.ref(next(iter(step._kept.values())))
    assert isinstance(alive(), traced.Kept) and alive() not in traced._programs.values()
