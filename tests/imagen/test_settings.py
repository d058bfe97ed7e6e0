"""Every schedule, time distribution, loss weight, output and sampler can be asked for in gin."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidgen.config import gin_utils
from vidgen.diffusion import guidance, parameterization, samplers, schedules, solvers
from vidgen.diffusion.parameterization import Edm, MinSnr
from vidgen.diffusion.samplers import SamplerSpec
from vidgen.imagen.denoiser import DenoisingNetwork
from vidgen.imagen.stage import DiffusionStage
from vidgen.train.train import Train
from vidgen.types import TextEmbedding, VideoBatch, VideoShape

# What is bound in the base's scope to get each class, with a value for every field it has.
_STAGE, _SAMPLER = "base/stage.DiffusionStage", "base/samplers.SamplerSpec"
FIELDS = {
    schedules.Cosine: ("schedule", {"logsnr_min": -9.0, "logsnr_max": 8.0, "shift": 0.5}),
    schedules.ImprovedCosine: (
        "schedule", {"offset": 0.01, "logsnr_min": -9.0, "logsnr_max": 8.0},
    ),
    schedules.LinearBetas: (
        "schedule",
        {"beta_min": 1e-3, "beta_max": 0.1, "steps": 9, "zero_terminal_snr": True,
         "logsnr_min": -9.0},
    ),
    schedules.RectifiedFlow: (
        "schedule", {"shift": 3.0, "logsnr_min": -9.0, "logsnr_max": 8.0},
    ),
    schedules.UniformTimes: ("times", {"low": 0.1, "high": 0.9, "stratified": False}),
    schedules.LogitNormalTimes: ("times", {"mean": 0.3, "std": 0.7}),
    schedules.LogNormalSigmas: ("times", {"mean": -0.4, "std": 1.1}),
    parameterization.Eps: ("parameterization", {}),
    parameterization.X0Output: ("parameterization", {}),
    parameterization.Velocity: ("parameterization", {}),
    parameterization.Edm: ("parameterization", {"sigma_data": 0.3}),
    parameterization.FlowVelocity: ("parameterization", {}),
    parameterization.MseIn: ("loss_weight", {"space": "eps"}),
    parameterization.MinSnr: ("loss_weight", {"gamma": 3.0}),
    parameterization.TruncatedSnr: ("loss_weight", {}),
}  # fmt: skip
SAMPLERS = {
    samplers.Ddim: ({"kind": "ddim"}, {}),
    samplers.Ancestral: ({"kind": "ancestral", "gamma": 0.7}, {"gamma": 0.7}),
    samplers.StochasticNStep: ({"kind": "stochastic"}, {}),
    samplers.DpmSolverPP2M: ({"kind": "dpmpp_2m"}, {}),
    samplers.Euler: ({"kind": "euler"}, {}),
    samplers.DpmSolverPP2S: ({"kind": "dpmpp_2s"}, {}),
    samplers.DpmSolverPP3M: ({"kind": "dpmpp_3m"}, {}),
    samplers.UniPC: ({"kind": "unipc"}, {}),
    samplers.Heun: (
        {"kind": "heun", "steps": 16, "churn": 4.0},
        {"gamma": 0.25, "low": 0.05, "high": 50.0, "noise": 1.003},
    ),
    samplers.Corrected: (
        {"kind": "ddim", "corrector_steps": 2, "corrector_delta": 0.3},
        {"sampler": samplers.Ddim(), "steps": 2, "delta": 0.3},
    ),
}
BUILT = {guidance.GuidanceSpec, samplers.SamplerSpec}  # of which a stage has one
INSIDE = {  # GuidanceSpec.threshold and .percentile, and its rule
    guidance._Thresholded,
    guidance._GuidePairs,
}


HEADER = """from __gin__ import dynamic_registration

from vidgen.diffusion import parameterization
from vidgen.diffusion import samplers
from vidgen.diffusion import schedules
from vidgen.imagen import stage

"""


def stage(folder, *bindings):
    """The tiny base model as training builds it with a file of these, and what nothing read."""
    (folder / "mine.gin").write_text(HEADER + "\n".join(bindings))
    files = ["runs/train.gin", "experiments/imagen_base_tiny.gin", str(folder / "mine.gin")]
    with gin_utils.session(files, ["MODEL_DIR='m'"]):
        run = gin_utils.build(Train)
        return run.trainer.model, set(gin_utils.unused_bindings())


def of(module):
    """The dataclasses that a module defines."""
    return {
        x
        for x in vars(module).values()
        if inspect.isclass(x) and dataclasses.is_dataclass(x) and x.__module__ == module.__name__
    }


def test_no_class_is_forgotten():
    modules = (guidance, parameterization, samplers, schedules, solvers)
    assert set().union(*map(of, modules)) == {*FIELDS, *SAMPLERS, *BUILT, *INSIDE}


@pytest.mark.parametrize("cls", FIELDS, ids=lambda cls: cls.__name__)
def test_a_binding_makes_the_object_with_its_settings(cls, tmp_path):
    field, values = FIELDS[cls]
    assert values.keys() == {f.name for f in dataclasses.fields(cls)}
    assert all(values[f.name] != f.default for f in dataclasses.fields(cls))
    name = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
    bindings = [f"base/{name}.{key} = {value!r}" for key, value in values.items()]
    model, unused = stage(tmp_path, f"{_STAGE}.{field} = @base/{name}()", *bindings)
    assert getattr(model, field) == cls(**values)
    assert not {binding for binding in unused if f"base/vidgen.diffusion.{name}" in binding}


@pytest.mark.parametrize("cls", SAMPLERS, ids=lambda cls: cls.__name__)
def test_a_binding_makes_the_sampler(cls, tmp_path):
    asked, values = SAMPLERS[cls]
    model, _ = stage(tmp_path, *(f"{_SAMPLER}.{key} = {value!r}" for key, value in asked.items()))
    assert model.sampler.sampler() == cls(**values)
    assert {f.name for f in dataclasses.fields(cls)} == values.keys()


CONTROLS = {"rescale": 0.7, "interval": (0.2, 1.6), "parallel": 0.0, "norm": 0.1, "momentum": -0.5}
AGAIN = {"resample": 5, "resample_jump": 4, "churn": 3.0}


def test_controls_are_settings(tmp_path):
    bound = [f"base/guidance.GuidanceSpec.{key} = {value!r}" for key, value in CONTROLS.items()]
    bound += [f"{_SAMPLER}.{key} = {value!r}" for key, value in AGAIN.items()]
    model, unused = stage(tmp_path, "from vidgen.diffusion import guidance", *bound)
    assert {key: getattr(model.guidance, key) for key in CONTROLS} == CONTROLS
    assert {key: getattr(model.sampler, key) for key in AGAIN} == AGAIN
    assert not {name for name in unused if name.startswith("base/vidgen.diffusion")}


def test_a_sampler_with_settings_of_its_own(tmp_path):
    bound = ["from vidgen.diffusion import solvers", "solvers.Heun.gamma = 0.2"]
    bound += ["solvers.Heun.noise = 1.007", f"{_SAMPLER}.kind = @solvers.Heun()"]
    model, _ = stage(tmp_path, *bound)
    assert model.sampler.sampler() == solvers.Heun(gamma=0.2, noise=1.007)


def test_every_name_that_is_listed_is_a_setting():
    kinds = {type(SamplerSpec(kind=kind).sampler()) for kind in samplers.SAMPLERS}
    assert kinds == SAMPLERS.keys() - {samplers.Corrected}
    heads = {type(head) for head in parameterization.PARAMETERIZATIONS.values()}
    assert heads == {cls for cls, (field, _) in FIELDS.items() if field == "parameterization"}
    weights = {type(weight) for weight in parameterization.LOSS_WEIGHTS.values()}
    assert weights == {cls for cls, (field, _) in FIELDS.items() if field == "loss_weight"}


def loss(**settings):
    """Of a network that answers 0, for clean video of 1 (v = α ε - σ x)."""

    @dataclasses.dataclass(frozen=True)
    class Zero(DenoisingNetwork):
        def init(self, rngs, *args, **kwargs):
            return {}

        def apply(self, params, z, logsnr, cond, *, train, rngs=None):
            return jnp.zeros_like(z)

    shape = VideoShape(frames=1, height=1, width=1)
    model = DiffusionStage(shape=shape, network=Zero(), **settings)
    text = TextEmbedding(tokens=jnp.zeros((4096, 1, 1)), mask=jnp.ones((4096, 1), bool))
    batch = VideoBatch(
        video=jnp.ones((4096, 1, 1, 1, 3)), text=text, independent_frames=jnp.zeros(4096, bool)
    )
    return float(model.loss({}, {}, batch, jax.random.key(0), train=False)[0])


def test_the_flow_layer_makes_the_base_a_rectified_flow():
    files = ["runs/train.gin", "experiments/imagen_base_tiny.gin", "models/imagen/flow.gin"]
    with gin_utils.session(files, ["MODEL_DIR='m'", "base/schedules.RectifiedFlow.shift=3.0"]):
        model = gin_utils.build(Train).trainer.model
    assert model.schedule == schedules.RectifiedFlow(shift=3.0)
    assert model.times == schedules.LogitNormalTimes()
    assert (model.parameterization, model.loss_weight) == ("flow", "flow_mse")
    assert model.sampler == SamplerSpec(kind="euler", steps=64, gamma=0.3)


def loss_by_gin(folder, *bindings):
    """The loss of what these bindings make of the base, with clean video of 1 and answer 0."""
    model, _ = stage(folder, *bindings)
    names = ("parameterization", "loss_weight", "times", "schedule")
    return loss(**{name: getattr(model, name) for name in names})


def test_gin_reaches_the_loss(tmp_path):
    """γ of minimum-SNR, and the σ_data of EDM's output, by the closed forms of the loss."""
    uniform = f"{_STAGE}.times = @base/schedules.UniformTimes()"
    snr = np.exp(np.asarray(schedules.Cosine()(jnp.linspace(0, 1, 100_001))))
    for gamma in (0.5, 5.0):
        found = loss_by_gin(
            tmp_path,
            *(uniform, f"{_STAGE}.parameterization = 'x0'"),
            f"{_STAGE}.loss_weight = @parameterization.MinSnr()",
            f"parameterization.MinSnr.gamma = {gamma}",
        )
        assert found == pytest.approx(np.minimum(snr, gamma).mean(), rel=0.01)
    narrow = ("base/schedules.UniformTimes.low = 0.49", "base/schedules.UniformTimes.high = 0.51")
    for d in (0.3, 1.0):
        share = d**2 / (1 + d**2)
        found = loss_by_gin(
            tmp_path,
            *(uniform, *narrow, f"{_STAGE}.loss_weight = 'x_mse'"),
            f"{_STAGE}.parameterization = @parameterization.Edm()",
            f"parameterization.Edm.sigma_data = {d}",
        )
        assert found == pytest.approx((1 - share) ** 2 + share**2, rel=0.05)


def test_gin_reaches_the_loss_of_a_flow(tmp_path):
    """Of ε - x with x = 1 it is E ε² + 1 = 2 at every level; as an error of x it is t² of that."""
    flow = (
        f"{_STAGE}.parameterization = 'flow'",
        f"{_STAGE}.schedule = @base/schedules.RectifiedFlow()",
        f"{_STAGE}.times = @base/schedules.UniformTimes()",
    )
    found = loss_by_gin(tmp_path, *flow, f"{_STAGE}.loss_weight = 'flow_mse'")
    assert found == pytest.approx(2, rel=0.02)
    for shift in (1.0, 3.0):
        u = np.linspace(0, 1, 100_001)
        t = shift * u / (1 + (shift - 1) * u)
        shifted = f"base/schedules.RectifiedFlow.shift = {shift}"
        found = loss_by_gin(tmp_path, *flow, f"{_STAGE}.loss_weight = 'x_mse'", shifted)
        assert found == pytest.approx(2 * np.mean(t**2), rel=0.03)


def test_settings_change_the_loss():
    """With x0 output and answer 0 the error is 1, and the loss is the mean of min(SNR, γ)."""
    given = {"parameterization": "x0"}
    for gamma in (0.5, 5.0):
        snr = np.exp(np.asarray(schedules.Cosine()(jnp.linspace(0, 1, 100_001))))
        found = loss(loss_weight=MinSnr(gamma=gamma), **given)
        assert found == pytest.approx(np.minimum(snr, gamma).mean(), rel=0.01)
    assert loss(loss_weight="min_snr", **given) == loss(loss_weight=MinSnr(), **given)
    edm = {"loss_weight": "x_mse", "times": schedules.UniformTimes(low=0.49, high=0.51)}
    for d in (0.5, 1.0):  # at λ = 0: F = 0 stands for x0 = d² z/((1 + d²) √½), z = (x + ε) √½
        share = d**2 / (1 + d**2)
        found = loss(parameterization=Edm(sigma_data=d), **edm)
        assert found == pytest.approx((1 - share) ** 2 + share**2, rel=0.05)


def test_sigmas_are_log_normal_whatever_the_schedule_is():
    times = schedules.LogNormalSigmas(mean=-0.4, std=1.1)
    for schedule in (schedules.Cosine(), schedules.Cosine(shift=-2.0), schedules.LinearBetas()):
        logsnr = schedules.draw_logsnrs(times, schedule, jax.random.key(0), 20_000)
        log_sigma = -np.asarray(logsnr) / 2
        quartiles = np.quantile(log_sigma, [0.25, 0.5, 0.75])
        np.testing.assert_allclose(
            quartiles, -0.4 + 1.1 * np.array([-0.6745, 0, 0.6745]), atol=0.03
        )
    narrow = schedules.Cosine(logsnr_min=-1.0, logsnr_max=2.0)
    logsnr = schedules.draw_logsnrs(times, narrow, jax.random.key(0), 1000)
    np.testing.assert_allclose([logsnr.min(), logsnr.max()], [-1, 2], rtol=1e-5)
    same = schedules.draw_logsnrs(schedules.UniformTimes(), narrow, jax.random.key(0), 5)
    np.testing.assert_array_equal(same, narrow(schedules.UniformTimes()(jax.random.key(0), 5)))
