"""Puts trained models among those that come with the package (vidgen/assets/zoo.py).

    python benchmarks/release.py runs/cascade8 --name=imagen_demo

Takes every training folder in the given one (runs/cascade8/base, ...) and writes of each the
averaged weights of its newest checkpoint, 8 bits a value in large kernels, and its configuration,
in which paths of this machine become paths of the package or are left out. Prints a line a model.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from absl import logging as absl_logging

from vidgen.assets import zoo
from vidgen.train import weights
from vidgen.train.state import named_leaves

OWN = ("MODEL_DIR", "TOKENIZER_DIR")  # lie in the zoo, too
OTHERS = ("TEACHER_DIR", "INIT_FROM")  # tell of the past, and are not there


def portable(config: str, home: str) -> str:
    """A saved configuration without a path of this machine; `home` is the folder in the zoo."""
    for macro in OWN:
        move = rf"^{macro} = '(?:[^']*/)?([^'/]+)'$"
        config = re.sub(move, rf"{macro} = '{home}/\1'", config, flags=re.MULTILINE)
    for macro in OTHERS:
        config = re.sub(rf"^{macro} = '.*'$", f"{macro} = ''", config, flags=re.MULTILINE)
    if found := re.search(r"^.*'/.*$", config, flags=re.MULTILINE):
        raise SystemExit(f"the configuration names a path of this machine: {found[0]}")
    return config


def main() -> None:
    """Release every model in a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="holds the training folders")
    parser.add_argument("--name", required=True, help="of the whole in the zoo")
    flags = parser.parse_args()
    absl_logging.set_verbosity(absl_logging.ERROR)
    home = f"vidgen/{zoo.FOLDER.name}/{flags.name}"
    for source in sorted(path.parent for path in flags.folder.glob("*/config.gin")):
        target = zoo.FOLDER / flags.name / source.name
        with weights.open_weights(source) as trained:
            params, step = trained.restore_params(), trained.latest_step()
        path = weights.write(target, params, step or 0)
        config = (source / "config.gin").read_text(encoding="utf-8")
        (target / "config.gin").write_text(portable(config, home), encoding="utf-8")
        count = sum(leaf.size for leaf in named_leaves(params).values())
        size = path.stat().length / 1e6
        print(f"{flags.name}/{source.name}: step {step}, {count:,} parameters, {size:.2f} MB")


if __name__ == "__main__":
    main()
