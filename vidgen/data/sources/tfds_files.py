"""Data sets as TFDS prepares them: which are there, what an example holds, where its bytes are.

    DATA_DIR/ucf101/ucf101_1_256/2.0.0/dataset_info.json      splits and their files
                                       features.json          what an example holds
                                       label.labels.txt       names of the classes of `label`
                                       ucf101-train.array_record-00000-of-00032

These files are read with TFDS's descriptions of them, and not with its builders, which import
TensorFlow as soon as there is a video: 2 GB on the disk and some 0.9 GB in every worker.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath

_FORMAT = "array_record"
_NAME = re.compile(r"(?P<set>\w+)(?:/(?P<config>[\w.-]+))?(?::(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
    """One part of every example.

    Attributes:
      kind: "video" (also a sequence of images), "image", "text", "label", "string", "number", or
        "other".
      dtype: the type of pixels.
      classes: names of the classes of a label.
    """

    kind: str
    dtype: str = "uint8"
    classes: tuple[str, ...] = ()


class Prepared(NamedTuple):
    """A split of a prepared data set.

    Attributes:
      records: the serialized examples.
      features: by name; the names of nested ones are joined with slashes.
    """

    records: ArrayRecordDataSource
    features: dict[str, Feature]


def import_tfds(module: str) -> Any:
    """Import a module of TFDS that needs no TensorFlow.

    Args:
      module: its name below `tensorflow_datasets`.

    Returns:
      The module.

    Raises:
      ValueError: TFDS is not installed.
    """
    try:
        return importlib.import_module(f"tensorflow_datasets.{module}")
    except ImportError as error:
        raise ValueError(
            f'TFDS data sets need tensorflow-datasets: pip install "vidgen[tfds]" ({error}).'
        ) from error


def open_split(name: str, split: str, data_dir: str) -> Prepared:
    """Open a split of a prepared data set.

    Args:
      name: "ucf101", "ucf101/ucf101_1_256" or "ucf101/ucf101_1_256:2.0.0".
      split: "train", "train[:80%]", "train+test".
      data_dir: where `tfds build` wrote; "" is TFDS's own default.

    Returns:
      Its records, not yet read, and the features of an example.

    Raises:
      FileNotFoundError: there is no such data set, or a file of it is missing.
      ValueError: TFDS is not installed, or the split or the format of the files is wrong.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = _folder(name, epath.Path(data_dir or default).expanduser())
    features = _features(json.loads((folder / "features.json").read_text()), folder)
    return Prepared(_records(name, split, folder), dict(features))


def _folder(name: str, root: epath.Path) -> epath.Path:
    """Return the folder of the version that a name means: the newest, unless the name has one."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise ValueError(f"{name!r} is no name of a data set; write set, set/config or set:1.0.0.")
    folder = root / parts["set"] / (parts["config"] or "")
    if parts["config"] is None and not _versions(folder):
        configs = [x.name for x in _folders(folder) if _versions(x)]
        if len(configs) > 1:
            raise ValueError(f"{name} has the configurations {configs}; name one: {name}/CONFIG.")
        folder = folder / configs[0] if configs else folder
    versions = sorted(_versions(folder), key=lambda x: tuple(map(int, x.name.split("."))))
    wanted = [x for x in versions if parts["version"] in (None, x.name)]
    if not wanted:
        there = [x.name for x in versions]
        there = there or sorted({x.name for x in _folders(root)} - {"downloads"})
        raise FileNotFoundError(
            f"{root} holds no prepared data set {name} (but {', '.join(there) or 'nothing'}); "
            f"prepare it with tfds build {name} --data_dir={root} --file_format={_FORMAT}."
        )
    return wanted[-1]


def _folders(folder: epath.Path) -> list[epath.Path]:
    inner = folder.iterdir() if folder.is_dir() else ()
    return [x for x in inner if x.is_dir() and not x.name.startswith((".", "_"))]


def _versions(folder: epath.Path) -> list[epath.Path]:
    folders = [x for x in _folders(folder) if _VERSION.fullmatch(x.name)]
    return [x for x in folders if (x / "dataset_info.json").exists()]


def _records(name: str, split: str, folder: epath.Path) -> ArrayRecordDataSource:
    splits, naming = import_tfds("core.splits"), import_tfds("core.naming")
    messages = import_tfds("core.proto").dataset_info_pb2
    json_format = importlib.import_module("google.protobuf.json_format")
    text = (folder / "dataset_info.json").read_text()
    info = json_format.Parse(text, messages.DatasetInfo(), ignore_unknown_fields=True)
    if _FORMAT not in (formats := {info.file_format, *info.alternative_file_formats}):
        raise ValueError(
            f"the data set {name} is prepared as {', '.join(sorted(formats))}, which cannot be "
            f"read in random order; prepare it with --file_format={_FORMAT} into another data_dir."
        )
    template = naming.ShardedFileTemplate(
        data_dir=folder, dataset_name=info.name, filetype_suffix=_FORMAT
    )
    all_splits = splits.SplitDict.from_proto(info.splits, template)
    try:
        files = all_splits[split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        raise ValueError(
            f"the split {split!r} of the data set {name} cannot be read: {_first_line(error)}."
        ) from error
    if missing := [x.filename for x in files if not epath.Path(x.filename).exists()]:
        raise FileNotFoundError(
            f"the data set {name} lacks its file {missing[0]}; prepare it again."
        )
    if not sum(x.take for x in files):
        raise ValueError(f"the split {split!r} of the data set {name} is empty.")
    return ArrayRecordDataSource(files)


def _features(
    tree: Mapping[str, Any], folder: epath.Path, path: tuple[str, ...] = (), depth: int = 0
) -> Iterator[tuple[str, Feature]]:
    """List the features in features.json as (name, feature); a sequence adds nothing to names."""
    if "featuresDict" in tree:
        for name, child in tree["featuresDict"].get("features", {}).items():
            yield from _features(child, folder, (*path, name), depth)
    elif "sequence" in tree:
        yield from _features(tree["sequence"].get("feature", {}), folder, path, depth + 1)
    else:
        kind, about = _kind(tree, depth)
        classes = _classes(folder, path, about) if kind == "label" else ()
        dtype = about.get("dtype", "uint8")
        yield "/".join(path), Feature(kind=kind, dtype=dtype, classes=classes)


def _kind(tree: Mapping[str, Any], depth: int) -> tuple[str, Mapping[str, Any]]:
    """Return the kind of a feature, and its further description."""
    kinds = {"text": "text", "classLabel": "label"}
    kinds |= {"video": "other" if depth else "video", "image": "video" if depth else "image"}
    for key, kind in kinds.items():
        if key in tree:
            return ("other" if depth > 1 else kind), tree[key]
    about = tree.get("tensor", {})
    if depth > 1 or about.get("shape", {}).get("dimensions") or not about:
        return "other", about
    return ("string" if about.get("dtype") == "string" else "number"), about


def _classes(
    folder: epath.Path, path: tuple[str, ...], about: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the names of the classes, or their numbers if they have no names."""
    names = folder / f"{'-'.join(path)}.labels.txt"
    if names.exists():
        return tuple(line.strip() for line in names.read_text().split("\n") if line.strip())
    return tuple(str(i) for i in range(int(about.get("numClasses", 0))))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120].rstrip(".")
