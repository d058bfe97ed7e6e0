"""A trained model as one folder to hand on, in the layout of the Hugging Face Hub.

    FOLDER/README.md                  the model card (model_card.py), with YAML front matter
           config.json                what it is, for programs
           config.gin                 the configuration
           model.safetensors          the weights, in full or in 8 bits (train/weights.py)
           samples/                   clips that the folder itself made, where it can

A cascade, or a transformer with its tokenizer, has the two middle files in a folder for each model.
`vidgen generate --model`, `INIT_FROM`, `TEACHER_DIR` and `TOKENIZER_DIR` take such a folder, here
or in a store; nothing in it is a program (config/untrusted.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidgen import __version__, paths
from vidgen.assets import model_folders
from vidgen.config.gin_sessions import Sessions
from vidgen.inference import model_card, portable_config, stage_folders, stages
from vidgen.inference.generate import Generate
from vidgen.inference.model_card import CardText, Sample
from vidgen.model import Model, SampledModel
from vidgen.train import frozen as trained
from vidgen.train import weights
from vidgen.train.state import named_leaves
from vidgen.types import Frozen, TextEncoder

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What gin reads of a trained model.

    Attributes:
      model: the model itself.
      text_encoder: the one that it was trained with.
      model_dir: its folder.
      frozen: loads trained networks that the model reads beside its own weights, if there are any.
    """

    model: Model
    text_encoder: TextEncoder
    model_dir: str
    frozen: Callable[[], Frozen] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """The run that writes the folder.

    Attributes:
      model: what `vidgen generate --model` takes; also a tokenizer.
      output: the folder, which must not be there yet; also in a store.
      eight_bits: large kernels in 8 bits, and the rest in half precision.
      step: which checkpoint; None is the last.
      prompts: the prompts of the sample clips; None: the configuration's own SAMPLE_PROMPTS.
      samples: at most so many clips.
      card: what a person says of the model.
      gin_files: the user's own, which import modules that the model needs.
    """

    model: str
    output: str
    eight_bits: bool = False
    step: int | None = None
    prompts: Sequence[str] | None = None
    samples: int = 4
    card: CardText = CardText()
    gin_files: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ValueError(f"--samples is {self.samples}; it must be 0 or more.")
        if not self.output:
            raise ValueError("vidgen export needs -o FOLDER, where to write the model.")

    def __call__(self) -> str:
        """Write the folder whole or not at all, and return its path.

        Raises:
          FileNotFoundError: there is no such model, or no weights of that step.
          ValueError: the folder is there already, or the model cannot be handed on.
          OSError: the folder cannot be written.
        """
        is_remote = paths.is_remote(self.output)
        _check_new(self.output)
        target = Path(
            tempfile.gettempdir() if is_remote else paths.expanded(self.output)
        ).absolute()
        where = target if is_remote else target.parent
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=where, prefix=".vidgen_export_") as partial:
            folder = Path(partial) / (self.output.rstrip("/").rpartition("/")[2] or "model")
            folder.mkdir()
            self._write(folder)
            if is_remote:
                _upload(folder, self.output)
            else:
                if target.is_dir():  # an empty one
                    target.rmdir()
                folder.rename(target)
        return self.output

    def _write(self, folder: Path) -> None:
        """Write everything into an empty folder of this machine."""
        sessions = Sessions(["runs/export.gin"], list(self.gin_files), [])
        models = _with_tokenizers(sessions, _folders(self.model))
        facts: dict[str, dict[str, Any]] = {}
        for name, (source, loaded, tokenizer) in models.items():
            inner = folder / name
            inner.mkdir(exist_ok=True)
            config = (source / "config.gin").read_text(encoding="utf-8")
            facts[loaded.model.name] = self._write_weights(inner, source, loaded) | _data(config)
            portable = portable_config.portable(config, tokenizer)
            (inner / "config.gin").write_text(portable, encoding="utf-8")
        _, first, _ = next(iter(models.values()))
        encoder = first.text_encoder
        about = {
            "library_name": "vidgen",
            "vidgen_version": __version__,
            "text_encoder": {
                "name": encoder.name,
                "length": encoder.length,
                "dim": encoder.dim,
            },
            "models": facts,
        }
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        clips = self._sample(folder, [x.model for _, x, _ in models.values()])
        card = model_card.text(folder.name, about, self.card, clips)
        (folder / "README.md").write_text(card, encoding="utf-8")

    def _write_weights(self, folder: Path, source: Path, loaded: TrainedModel) -> dict[str, Any]:
        """Write the weight file of one model, and return what config.json says of it."""
        text = (loaded.text_encoder.length, loaded.text_encoder.dim)
        params = trained.restored(loaded.model, str(source), self.step, None, text)
        with weights.open_weights(source) as reader:
            step = reader.latest_step() if self.step is None else self.step
            if self.eight_bits and isinstance(reader, weights.WeightsFile) and reader.in_eight_bits:
                path = reader.copy_to(folder)
            else:
                path = weights.write(folder, params, step or 0, eight_bits=self.eight_bits)
        count = sum(leaf.size for leaf in named_leaves(params).values())
        size = path.stat().length / 1e6
        log.info("%s: step %s, %s parameters, %.2f MB", loaded.model.name, step, f"{count:,}", size)
        model = loaded.model
        return {
            "class": type(model).__name__,
            "shape": dataclasses.asdict(model.shape),
            "starts_from": _starts_from(model),
            "sampling_steps": model.sampler.steps if isinstance(model, SampledModel) else None,
            "parameters": count,
            "trained_steps": step,
            "weights": "8 bits" if self.eight_bits else "float32",
            "metrics": _last_metrics(source, model.name),
        }

    def _sample(self, folder: Path, models: Sequence[Model]) -> list[Sample]:
        """Let the folder that was written make clips, if its first model starts from text."""
        makers = [model for model in models if isinstance(model, SampledModel)]
        if not makers or not self.samples or _starts_from(makers[0]) != "text":
            return []
        folders = stages.find(str(folder))
        config = (folders[0] / "config.gin").read_text(encoding="utf-8")
        candidates = (
            portable_config.prompts(config) if self.prompts is None else tuple(self.prompts)
        )
        prompts = candidates[: self.samples]
        if not prompts:
            return []
        sessions = Sessions(["runs/generate.gin"], list(self.gin_files), [])
        chain = [stages.build_trained(sessions, stages.Stage, path) for path in folders]
        output = str(folder / "samples" / "sample.mp4")
        run = sessions.build(Generate, stages=chain, prompts=prompts, output=output)
        with contextlib.redirect_stdout(io.StringIO()):  # these paths are soon others
            run()
        return [Sample(clip.prompt, f"samples/{clip.path.name}") for clip in run.clips()]


def _folders(model: str) -> dict[str, Path]:
    """Return the folders of the models: by their names, or one by "" where it is one model."""
    folder = model_folders.check_local("MODEL", model_folders.find(model))
    if (folder / "config.gin").is_file():
        return {"": folder}
    inner = {path.parent.name: path.parent for path in sorted(folder.glob("*/config.gin"))}
    if not inner:
        raise FileNotFoundError(
            f"{model}: there is no {folder / 'config.gin'}, nor one in a folder in it; name a "
            "folder that vidgen train wrote."
        )
    return {name: inner[name] for name in dict.fromkeys([*stage_folders.names(folder), *inner])}


def _with_tokenizers(
    sessions: Sessions, folders: Mapping[str, Path]
) -> dict[str, tuple[Path, TrainedModel, str | None]]:
    """Return folder, model and name of its tokenizer by name; a tokenizer from elsewhere comes too.

    What a transformer reads is one model with it.
    """
    models = {n: (f, sessions.build_trained(TrainedModel, f)) for n, f in folders.items()}
    places = {folder.resolve(): name for name, folder in folders.items()}
    named: dict[str, tuple[Path, TrainedModel, str | None]] = {}
    for name, (folder, model) in models.items():
        reads, other = model.frozen, None
        if isinstance(reads, trained.FrozenParams):
            where = Path(reads.folder)
            other = places.get(where.resolve()) or reads.model.name
            named[other] = (where, sessions.build_trained(TrainedModel, where), None)
        named[name or (model.model.name if other else "")] = (folder, model, other)
    # Those that make video come first: one of them is the model, for whoever reads the card.
    return dict(sorted(named.items(), key=lambda x: not isinstance(x[1][1].model, SampledModel)))


def _starts_from(model: Model) -> str | None:
    """Return what a model that makes video makes it of; None of a tokenizer."""
    if not isinstance(model, SampledModel):
        return None
    return "text" if model.input_shape is None else "video"


def _data(config: str) -> dict[str, Any]:
    source = portable_config.dataset(portable_config.portable(config))
    return {
        "data": None if source is None else {"class": source[0], "settings": source[1]},
        "batch_size": portable_config.number(config, "BATCH_SIZE"),
    }


def _last_metrics(source: Path, name: str) -> dict[str, float]:
    """Return the last losses that training logged, of its own examples and of others.

    Of a model that was exported before, they are those that its config.json says.
    """
    path, losses = source / "metrics.jsonl", {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            losses |= {n: row[n] for n in ("loss", "eval_loss") if row.get(n) is not None}
        return losses
    for about in (source / "config.json", source.resolve().parent / "config.json"):
        if about.is_file():
            models = json.loads(about.read_text(encoding="utf-8")).get("models", {})
            losses |= models.get(name, {}).get("metrics", {})
    return losses


def _check_new(output: str) -> None:
    """Raise ValueError where the folder is there already, or a repository of the Hub is not."""
    names = paths.names_in(output) - {".gitattributes"}  # which a new repository has
    if paths.is_file(output) or names:
        raise ValueError(f"--output {output} is there already; name a new folder.")
    repository = "/".join(output.split("/")[:4])  # hf: / / OWNER / NAME
    if output.startswith("hf://") and not paths.is_folder(repository):
        raise ValueError(
            f"--output {output}: there is no such repository, or none that you may read; make it "
            f"(`hf repos create {repository.removeprefix('hf://')}`), and log in (HF_TOKEN)."
        )


def _upload(folder: Path, address: str) -> None:
    """Move all files to a store, those that make the folder a model last."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in sorted(files, key=lambda x: x.name == "config.gin"):
        paths.move_to(path, paths.join(address, path.relative_to(folder).as_posix()))
