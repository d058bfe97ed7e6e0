"""Settings of the compiler: for CPUs less of it, elsewhere what hides communication.

They are read once, when the first device is asked for, so `vidgen` sets them when it starts. What a
user has set in XLA_FLAGS or LIBTPU_INIT_ARGS stays.

On a CPU a kernel of vidgen is a loop over elements, or a call of a library. LLVM's vectorizer of
straight code, its unrolling of loops and XLA's emitter of tiles took a third of the time in which
the step of a small U-Net compiles (23.7 s, 15.9 without them), and make no step faster. Names that
XLA does not know are ignored here, where an unknown flag ends the process.

The latency-hiding scheduler itself is on by default on TPUs. What is set for TPUs is good for every
generation: _fuse_all_gather, which is often recommended beside it, is an error on all but v5e. The
README of AI-Hypercomputer/maxdiffusion has it all for training Wan, a video model, on v5p and v6e;
what else it sets there (more scoped VMEM, experimental features of the scheduler) is left out, as
its gain was not measured.

    async collective fusion, overlap, all-gather    the gathers of parameters
    all-gather backward pipelining                  the same in the backward pass of scanned blocks
    data-parallel all-reduce                        gradients of any sizes, over "data" and slices
    collective permute, all-to-all                  rows of the picture that devices pass on
    windowed einsum, threshold                      off: on v6e a product by weights that are cut is
                                                    taken in as many parts as devices, each of
                                                    which reads and writes the whole result, and
                                                    attention in frames ends this compiler
"""

from __future__ import annotations

import importlib.util
import os

CPU = (
    "--xla_backend_extra_options="
    "xla_cpu_disable_slp_vectorizer,xla_cpu_disable_loop_unrolling,xla_cpu_disable_tiled_emitter",
)
GPU = ("--xla_gpu_enable_latency_hiding_scheduler=true",)
TPU = (
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
    "--xla_enable_async_all_gather=true",
    "--xla_tpu_enable_ag_backward_pipelining=true",
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
    "--xla_enable_async_collective_permute=true",
    "--xla_tpu_enable_async_all_to_all=true",
    "--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",
)


def set_defaults() -> None:
    """Add the settings to the environment of this process."""
    _add("XLA_FLAGS", CPU)
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        _add("XLA_FLAGS", GPU)
    _add("LIBTPU_INIT_ARGS", TPU)


def _add(variable: str, flags: tuple[str, ...]) -> None:
    present = os.environ.get(variable, "").split()
    named = {flag.partition("=")[0] for flag in present}
    new = [flag for flag in flags if flag.partition("=")[0] not in named]
    os.environ[variable] = " ".join([*present, *new])
