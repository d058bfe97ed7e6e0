"""Writes files as torch.save does, both the zip of today and the older row of pickles.

Checked against PyTorch 2.13, which reads them: the layout is not our own.
"""

import collections
import io
import pickle
import sys
import types
import unittest.mock
import zipfile

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MACHINE = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
STORAGES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}


class Tensor:
    """What torch pickles: a view of a flat storage. Strides count elements."""

    def __init__(self, flat, size, stride=None, offset=0):
        self.flat, self.size, self.offset = np.asarray(flat).reshape(-1), tuple(size), offset
        steps = np.cumprod([1, *self.size[:0:-1]])[::-1] if self.size else ()
        self.stride = tuple(int(step) for step in steps) if stride is None else stride


def named(module, name):
    """A stand-in of that name, which pickle writes down without looking at it."""
    return type(name, (), {"__module__": module, "__qualname__": name})


TORCH = {name: named("torch", name) for name in STORAGES.values()}
REBUILD = named("torch._utils", "_rebuild_tensor_v2")
MODULES = {
    "torch": types.SimpleNamespace(**TORCH),
    "torch._utils": types.SimpleNamespace(_rebuild_tensor_v2=REBUILD),
}


class Pickler(pickle.Pickler):
    def __init__(self, stream, protocol):
        super().__init__(stream, protocol)
        self.storages = []

    def persistent_id(self, obj):
        if not isinstance(obj, np.ndarray):
            return None
        known = [id(storage) for storage in self.storages]
        if id(obj) not in known:
            self.storages.append(obj)
            known.append(id(obj))
        key = str(known.index(id(obj)))
        return ("storage", TORCH[STORAGES[obj.dtype]], key, "cpu", obj.size, *self.view)

    def reducer_override(self, obj):
        if not isinstance(obj, Tensor):
            return NotImplemented
        hooks = collections.OrderedDict()
        return REBUILD, (obj.flat, obj.offset, obj.size, obj.stride, False, hooks)


def pickled(state, view=()):
    """The pickle of `state`, and the storages it refers to."""
    stream = io.BytesIO()
    pickler = Pickler(stream, 2)
    pickler.view = view
    with unittest.mock.patch.dict(sys.modules, MODULES):
        pickler.dump(state)
    return stream.getvalue(), pickler.storages


def save(state, path):
    """As torch.save since 1.6."""
    data, storages = pickled(state)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/byteorder", "little")
        for key, storage in enumerate(storages):
            archive.writestr(f"model/data/{key}", storage.tobytes())
        archive.writestr("model/version", "3\n")
    return path


def save_legacy(state, path):
    """As torch.save before 1.6; torchvision's weights of VGG are such a file."""
    data, storages = pickled(state, view=(None,))
    keys = [str(key) for key in range(len(storages))]
    with open(path, "wb") as stream:
        for value in (MAGIC, PROTOCOL, MACHINE):
            pickle.dump(value, stream, 2)
        stream.write(data)
        pickle.dump(keys, stream, 2)
        for storage in storages:
            stream.write(storage.size.to_bytes(8, "little") + storage.tobytes())
    return path
