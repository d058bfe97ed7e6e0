"""The notebooks: each runs from a clean kernel, holds calls and no logic, and is small."""

import ast
import os
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from places import HELPERS, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 500_000  # bytes
LOGIC = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.If,
    ast.Try, ast.With, ast.IfExp, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp,
    ast.BinOp, ast.BoolOp, ast.Compare,
)  # fmt: skip

# What makes a cell quick and leaves what it calls and shows: patterns, and what takes their place.
CHEAPER = {
    r"^STEPS = \d+": "STEPS = 5",
    r"^CLIPS = \d+": "CLIPS = 2",
    r"\bclips=\d+": "clips=2",
    r"(?<!ddim\", )\bsteps=\d+": "steps=2",  # a student takes the steps that it learned
    r'"steps", \(1, 2, 8.*?\)': '"steps", (1, 2)',
    # A transformer takes any number of steps.
    r"\bframes: \d+": "frames: 11",
    r"\.story\((?![^()]*\bsteps=)([^()]*?),?\s*\)": r".story(\1, steps=1)",
    r"\b(phenaki|imagen|cascade|ssr1|noisy)\.generate\(([^()\n]*)\)": r"\1.generate(\2, steps=2)",
    r'model="(\w+_demo)", ': r'model="\1", steps=2, ',
    r"\bBATCH_SIZE=\d+": "BATCH_SIZE=2",
    # The last stages take minutes to compile; tests/test_readme.py runs all seven, tiny.
    r'load\("imagen_demo"\)': 'load("imagen_demo", until="ssr1")',
}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tree_of(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def test_they_are_all_there():
    assert [path.stem[0] for path in NOTEBOOKS] == list("12345")


@each
def test_the_first_cell_installs_vidgen_where_it_is_missing(path):
    first = {code_of(other)[0].source for other in NOTEBOOKS}
    assert len(first) == 1  # the same in all
    assert 'find_spec("vidgen") is None' in code_of(path)[0].source
    assert "%pip install" in code_of(path)[0].source
    assert "vidgen[notebook]" in code_of(path)[0].source


@each
def test_cells_hold_no_logic(path):
    for cell in code_of(path)[1:]:
        found = [type(node).__name__ for node in ast.walk(tree_of(cell)) if isinstance(node, LOGIC)]
        assert not found, f"{found} in:\n{cell.source}"


@each
def test_outputs_are_those_of_one_run_and_small(path):
    assert path.stat().st_size <= LARGEST
    nbformat.validate(read(path))
    cells = code_of(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert "image/png" in shown or "text/html" in shown
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text


def cheaper(source):
    for pattern, instead in CHEAPER.items():
        source = re.sub(pattern, instead, source, flags=re.MULTILINE)
    return source


def test_flags_that_make_a_cell_cheaper():
    texts = [cell.source for path in NOTEBOOKS for cell in code_of(path)]
    for pattern in CHEAPER:
        assert any(re.search(pattern, text, flags=re.MULTILINE) for text in texts), pattern
    assert cheaper("a.generate(X, steps=32).b(c)") == "a.generate(X, steps=2).b(c)"
    student = 'a.generate(X, sampler="ddim", steps=4)'
    assert cheaper(student) == student
    assert cheaper("a.story(\n    x,\n)\nSTEPS = 9") == "a.story(\n    x, steps=1)\nSTEPS = 5"


def forked(command):
    """A manager of kernels that begin as forks, and need not import JAX; `command` is its file."""

    class Manager(AsyncKernelManager):
        def format_kernel_cmd(self, extra_arguments=None):
            return [str(command), "-f", self.connection_file]

    return Manager


@pytest.mark.cli
@each
def test_it_runs_from_a_clean_kernel(path, warm, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = cheaper(cell.source)
    folder = tmp_path / "work"
    folder.mkdir()
    resources = {"metadata": {"path": str(folder)}}
    options = {"timeout": 900, "kernel_name": "python3", "resources": resources}
    if path != NOTEBOOKS[0]:  # of which the kernel is begun as users begin it
        warm.command(tmp_path / "kernel", HELPERS / "kernel.py")
        options["kernel_manager_class"] = forked(tmp_path / "kernel")
    NotebookClient(notebook, **options).execute()
    assert os.listdir(folder)  # what a notebook writes lies where it runs
    kinds = [
        {kind for output in cell.outputs for kind in output.get("data", {})}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    stored = [
        {kind for output in cell.outputs for kind in output.get("data", {})}
        for cell in code_of(path)
    ]
    assert kinds == stored
