"""The jobs of imagen-pytorch 2.1.0 and phenaki-pytorch 0.5.0 that benchmarks/peers.py times.

    PYTHON benchmarks/peer_packages.py imagen-S/base/train

PYTHON has torch 2.13.0 (CPU) and both packages; `pip install torch==2.13.0 imagen-pytorch==2.1.0
phenaki-pytorch==0.5.0` makes one. The rows are those of benchmarks/peer_models.py, with the same
batch, frames, sizes and text.

- A U-Net's training step is `ImagenTrainer`'s, with its averaged weights; that of the tokenizer and
  of the transformer is loss, gradient, clipping and their AdamW, as their trainers have it (which
  read folders of files). Averaged weights are left out there.
- Sampling: 8 ancestral steps with guidance 5, two passes a step; the transformer 18 steps, and the
  tokenizer's decoder, which their `sample` runs.
- C-ViViT's perceptual network is an identity: VGG's weights would have to be fetched, and ours has
  none here either.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

from peer_timing import Job, serve

TEXT = (16, 768)
BATCH = 2
UNETS = {"base": (0, 8, 16), "tsr": (1, 16, 16), "ssr": (2, 16, 32)}  # number, frames, side
SIZES = {"S": (32, 1), "M": (64, 2), "B32": (64, 1)}  # width, residual blocks
PHENAKI = {"S": (32, 128, 2, 4, 1024, 4), "M": (64, 256, 4, 8, 8192, 8)}


def ready() -> Any:
    """torch, with what the packages want of the hub and of torchvision when they are imported."""
    import torch

    torch.set_num_threads(1)
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # torchvision for another torch: its compiled operators do not load. None of them runs here,
        # but their names must be there.
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)
    import transformers

    config = transformers.T5Config(d_model=TEXT[1])
    transformers.T5Config.from_pretrained = classmethod(lambda *_, **__: config)
    import imagen_pytorch
    import phenaki_pytorch  # noqa: F401  (before anything is measured)

    del imagen_pytorch
    torch.manual_seed(0)
    return torch


def cascade(size: str, number: int) -> Any:
    """An Imagen whose stage of this number is a Unet3D."""
    from imagen_pytorch import Imagen, NullUnet, Unet3D

    dim, blocks = SIZES[size]
    attends = (False, False, True)
    unet = Unet3D(
        dim=dim,
        dim_mults=(1, 2, 4),
        num_resnet_blocks=blocks,
        attn_heads=4,
        attn_dim_head=16,
        layer_attns=attends,
        layer_cross_attns=attends,
    )
    sizes, strides = ((32,), (1,)) if size == "B32" else ((16, 16, 32), (2, 1, 1))
    unets = [NullUnet() for _ in sizes]  # the stages beside it take neither time nor memory
    for later in unets[1:]:
        later.lowres_cond = True
    unets[number] = unet
    return Imagen(
        unets=tuple(unets),
        image_sizes=sizes,
        temporal_downsample_factor=strides,
        text_embed_dim=TEXT[1],
        timesteps=8,
        pred_objectives="v",
    )


def unet_job(torch: Any, size: str, stage: str, what: str) -> Job:
    """A stage of the cascade."""
    from imagen_pytorch import ImagenTrainer

    number, frames, side = (0, 16, 32) if size == "B32" else UNETS[stage]
    imagen = cascade(size, number)
    count = sum(x.numel() for x in imagen.unets[number].parameters())
    text = torch.randn(BATCH, *TEXT)
    if what == "train":
        trainer = ImagenTrainer(imagen, only_train_unet_number=number + 1, max_grad_norm=1.0)
        whole = torch.rand(BATCH, 3, 16, 32, 32)

        def step() -> None:
            trainer(whole, text_embeds=text, unet_number=number + 1)
            trainer.update(unet_number=number + 1)

        return _job(torch, count, step)
    before = {"base": None, "tsr": (8, 16), "ssr": (16, 16)}[stage]
    low = None if before is None else torch.rand(BATCH, 3, before[0], before[1], before[1])

    def sample() -> None:
        found = imagen.sample(
            text_embeds=text,
            batch_size=BATCH,
            video_frames=16,
            cond_scale=5.0,
            start_at_unet_number=number + 1,
            stop_at_unet_number=number + 1,
            start_image_or_video=low,
            use_tqdm=False,
        )
        assert found.shape == (BATCH, 3, frames, side, side), found.shape

    return _job(torch, count, sample)


def phenaki_job(torch: Any, size: str, network: str, what: str) -> Job:
    """C-ViViT, or the transformer on its tokens."""
    from phenaki_pytorch import CViViT, MaskGit, Phenaki

    side, dim, depth, heads, codes, layers = PHENAKI[size]
    autoencoder = CViViT(
        dim=dim,
        codebook_size=codes,
        image_size=side,
        patch_size=8,
        temporal_patch_size=2,
        spatial_depth=depth,
        temporal_depth=depth,
        dim_head=32,
        heads=heads,
        use_vgg_and_gan=network == "cvivit_gan",
        vgg=torch.nn.Identity(),
        lookup_free_quantization=False,
    )
    video = torch.rand(BATCH, 3, 17, side, side)
    text = torch.randn(BATCH, *TEXT)
    if network.startswith("cvivit"):
        return tokenizer_job(torch, autoencoder, video, what)
    maskgit = MaskGit(
        dim=dim,
        num_tokens=codes,
        max_seq_len=9 * (side // 8) ** 2,
        dim_head=32,
        heads=heads,
        depth=layers,
        dim_context=TEXT[1],
    )
    model = Phenaki(maskgit=maskgit, cvivit=autoencoder, text_embed_dim=TEXT[1], steps=18)
    count = sum(x.numel() for x in maskgit.parameters())
    if what == "sample":
        model.encode_texts = lambda *_, **__: text
        return _job(
            torch, count, lambda: model.sample(texts=["", ""], num_frames=17, cond_scale=5.0)
        )
    given = {"videos": video}
    if what == "train":
        with torch.no_grad():
            given = {"video_codebook_ids": model.cvivit(video, return_only_codebook_ids=True)}
    step = _update(torch, maskgit.parameters(), lambda: model(text_embeds=text, **given))
    return _job(torch, count, step)


def tokenizer_job(torch: Any, model: Any, video: Any, what: str) -> Job:
    """Training, coding or decoding."""
    # With the codebook, which is a buffer there.
    count = sum(x.numel() for x in model.parameters()) + model.vq.codebook.numel()
    if what == "train":
        own = [] if model.discr is None else list(model.discr.parameters())
        judged = {id(x) for x in own}
        rest = [x for x in model.parameters() if id(x) not in judged]
        generator = _update(torch, rest, lambda: model(video))
        if not own:
            return _job(torch, count, generator)
        discriminator = _update(torch, own, lambda: model(video, return_discr_loss=True))
        return _job(torch, count, lambda: (generator(), discriminator()))
    model.eval()
    tokens = model(video, return_only_codebook_ids=True)
    calls = {
        "encode": lambda: model(video, return_only_codebook_ids=True),
        "decode": lambda: model.decode_from_codebook_indices(tokens.flatten(1)),
    }

    def call() -> None:
        with torch.no_grad():
            calls[what]()

    return _job(torch, count, call)


def _update(torch: Any, parameters: Any, loss: Callable[[], Any]) -> Callable[[], None]:
    """A training step of these parameters, with the packages' optimizer."""
    from phenaki_pytorch.optimizer import get_optimizer

    parameters = list(parameters)
    optimizer = get_optimizer(parameters, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def _job(torch: Any, count: int, call: Callable[[], Any]) -> Job:
    def flops() -> int:
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        counter.mod_tracker = _Whole()
        with counter:
            call()
        return counter.get_total_flops()

    return Job(count, call, flops)


class _Whole(contextlib.nullcontext):
    """In place of what tells modules apart, which fails in the gradient of a gradient."""

    parents = ("Global",)


def job(name: str) -> Job:
    """The job of a row; torch is there already."""
    import torch

    package, network, what = name.split("/")
    family, size = package.split("-")
    make = unet_job if family == "imagen" else phenaki_job
    return make(torch, size, network, what)


if __name__ == "__main__":
    ready()
    serve(lambda: job(sys.argv[1]))
