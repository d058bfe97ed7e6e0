"""The rules of the house, read off the source: layers, sizes, docstrings, axis names, imports."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from vidgen.config import gin_files, gin_utils
from vidgen.nn import axes
from vidgen.train.partitioning import Partitioner

PACKAGE = ROOT / "vidgen"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What each part of the package may import of the package. A module may always import its own part.
BASE = {"types", "paths", "progress", "checks", "allocator", "traced"}
CONTRACT = BASE | {"model"}
MODELS = {"imagen", "phenaki", "diffusion", "text"}
ALLOWED = {
    "checks": set(),
    "types": {"checks"},
    "model": {"types", "diffusion"},
    "paths": set(),
    "allocator": set(),
    "traced": {"paths"},
    "progress": set(),
    "config": set(),
    "assets": {"paths"},
    "nn": BASE,
    "diffusion": BASE,
    "pretrained": BASE,
    "text": BASE | {"nn", "diffusion", "pretrained", "assets"},
    "imagen": CONTRACT | {"nn", "diffusion", "train"},
    "phenaki": CONTRACT | {"nn", "diffusion", "pretrained", "assets"},
    "data": BASE,
    "sprites": BASE | {"data", "evals"},
    "train": CONTRACT | {"data", "assets", "nn"},
    "inference": CONTRACT | MODELS | {"config", "train", "data", "assets"},
    "story": CONTRACT | MODELS | {"inference", "train", "data"},
    "plan": CONTRACT | MODELS | {"nn", "train", "data"},
    "precompute": CONTRACT | MODELS | {"train", "data"},
    "evals": CONTRACT | {"inference", "phenaki", "train", "data", "pretrained", "assets"},
    "display": BASE | {"evals", "data"},
    "cli": CONTRACT
    | {
        "config",
        "assets",
        "diffusion",
        "display",
        "train",
        "inference",
        "story",
        "plan",
        "precompute",
        "evals",
        "web",
    },
    "web": BASE | {"assets", "data", "inference", "story"},
    "loaded_model": CONTRACT | {"cli", "config", "data", "display", "imagen", "inference", "story"},
    "api": {"assets", "cli", "config", "display", "inference", "loaded_model", "model"},
    "__main__": {"cli"},
}
LINEN = {  # the only files that may build layers; see "Exit cost" of Linen in CONTRIBUTING.md
    "nn", "text.t5_network", "imagen.unet", "imagen.blocks",
    "phenaki.cvivit", "phenaki.quantizer", "phenaki.discriminator", "phenaki.maskgit",
    "phenaki.conv_tokenizer", "phenaki.autoencoder",
}  # fmt: skip
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LINEN_RULES = {"train.partitioning"}  # axis rules, no layers
MAX_FUNCTION, MAX_MODULE, MAX_ARGUMENTS = 55, 310, 8  # lines beside docstrings; keyword arguments


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path):
    """(imported module, names) of all imports, those inside functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            yield node.module, tuple(alias.name for alias in node.names)


def package_imports(path):
    """Modules of the package that a file imports, without the leading "vidgen."."""
    for module, names in imports_of(path):
        if module == "vidgen":
            yield from (n for n in names if n != "__version__")
        elif module.startswith("vidgen."):
            inner = module.removeprefix("vidgen.")
            is_package = (PACKAGE / Path(*inner.split("."))).is_dir()
            yield from (f"{inner}.{n}" for n in names) if is_package else (inner,)


def within(module, parts):
    return any(module == part or module.startswith(part + ".") for part in parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_import_layers(path):
    part = name_of(path).split(".")[0]
    if part == "__init__":  # for type checkers alone; see the test of lightness
        assert set(package_imports(path)) == {"api"}
        return
    allowed = ALLOWED[part] | {part}
    wrong = [module for module in package_imports(path) if not within(module, allowed)]
    assert not wrong, f"{name_of(path)} may import only {sorted(allowed)} of vidgen, not {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_frameworks_stay_where_they_belong(path):
    name = name_of(path)
    modules = {f"{m}.{n}" for m, names in imports_of(path) for n in names or ("",)}
    roots = {module.split(".")[0] for module in modules}
    assert "gin" not in roots or name in ("config.gin_utils", "config.untrusted")
    assert "orbax" not in roots or name == "train.checkpoints"
    assert "tensorflow" not in roots and "torch" not in roots
    if any(module.startswith("flax.linen") for module in modules):
        assert within(name, LINEN | LINEN_RULES), f"{name} may not import flax.linen"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_package_files_hold_only_a_docstring(path):
    if path.name != "__init__.py" or path.parent == PACKAGE:  # that one is the face
        return
    for node in tree_of(path).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_text, f"{path}: line {node.lineno}"


def docstring_lines(tree):
    """Lines that the docstrings of a module, class or function and of all within it take."""
    nodes = (n for n in ast.walk(tree) if isinstance(n, DOCUMENTED) and ast.get_docstring(n))
    return sum(n.body[0].end_lineno - n.body[0].lineno + 1 for n in nodes)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sizes(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines - docstring_lines(tree_of(path)) <= MAX_MODULE
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            where = f"{name_of(path)}.{node.name}"
            lines = node.end_lineno - node.lineno + 1
            assert lines - docstring_lines(node) <= MAX_FUNCTION, where
            assert len(node.args.kwonlyargs) <= MAX_ARGUMENTS, where


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_have_docstrings(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{path} has no docstring"
    kinds = (ast.FunctionDef, ast.ClassDef)
    todo = [node for node in tree.body if isinstance(node, kinds)]
    while todo:
        node = todo.pop()
        if node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), f"{name_of(path)}.{node.name} has no docstring"
        if isinstance(node, ast.ClassDef):
            todo += [inner for inner in node.body if isinstance(inner, kinds)]


def takes_arguments(function):
    """Whether a function has parameters besides self and cls."""
    parameters = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return any(parameter.arg not in ("self", "cls") for parameter in parameters)


def returns_something(function):
    """Whether a function is annotated to return more than None."""
    return ast.unparse(function.returns or ast.Constant(None)) not in ("None", "NoReturn")


def sections(docstring):
    """Headings that are not indented, as those that belong to the text are."""
    return set(re.findall("^([A-Z][a-z]+):$", docstring, re.MULTILINE))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_functions_have_contracts(path):
    """Args and Returns, or a reference ("see `Base`") to the one that has them."""
    classes = [n for n in tree_of(path).body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
    for node in [n for owner in (tree_of(path), *classes) for n in owner.body]:
        if not isinstance(node, ast.FunctionDef) or node.name[0] == "_":
            continue
        text = ast.get_docstring(node) or ""
        if not takes_arguments(node) or "see `" in text.lower():
            continue
        where = f"{name_of(path)}.{node.name}, line {node.lineno}"
        assert "Args" in sections(text), where
        assert not returns_something(node) or sections(text) & {"Returns", "Yields"}, where


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_a_model_can_do_is_declared_not_probed(path):
    """`vidgen/model.py` declares it; see the classes there."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            owner, name = node.args[:2]
            probed = re.fullmatch(r"(.*[._])?(model|stage)", ast.unparse(owner))
            assert not (probed and isinstance(name, ast.Constant)), f"line {node.lineno}"


def modules_with_tests_elsewhere():
    """Paths that the docstring of a test file names: "Tests of vidgen/ROOM/MODULE.py too."."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for names in re.findall(r"Tests of ([^.]+\.py.*?) too\.", docstring_of(path), re.DOTALL):
            yield from ((ROOT / name, path) for name in re.split(r",\s+", names))


def docstring_of(path):
    return ast.get_docstring(tree_of(path)) or ""


TESTED_ELSEWHERE = dict(modules_with_tests_elsewhere())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_the_tests_of_its_name(path):
    if path.name == "__init__.py":
        return
    inner = path.relative_to(PACKAGE)
    tests = ROOT / "tests" / inner.parent / f"test_{inner.name}"
    assert tests.is_file() or path in TESTED_ELSEWHERE, (
        f"vidgen/{inner} needs tests/{inner.parent}/test_{inner.name}, or a test file "
        f'whose docstring says "Tests of vidgen/{inner} too."'
    )


def test_modules_that_tests_name_exist():
    wrong = [f"{test}: {path}" for path, test in TESTED_ELSEWHERE.items() if not path.is_file()]
    assert not wrong


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda p: p.stem)
def test_errors_are_matched_by_what_they_name_not_by_their_sentences(path):
    """At most three plain words in a row: who puts a sentence better changes no test."""
    matched = [
        part.value
        for keyword in ast.walk(tree_of(path))
        if isinstance(keyword, ast.keyword) and keyword.arg == "match"
        for part in ast.walk(keyword.value)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    assert [text for text in matched if re.search(r"\b[a-z]+(?:,? [a-z]+){3,}\b", text)] == []


def test_no_bag_of_helpers():
    assert not [p for p in MODULES if p.stem in ("utils", "util", "helpers", "common", "misc")]


IMPORT_ALL = """
import importlib, socket, sys

def no_network(*args, **kwargs):
    raise AssertionError("importing vidgen opened a connection")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = no_network
for name in sys.argv[1:]:
    importlib.import_module(name)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "importing vidgen started a back end"
optional = {"scipy", "seqio", "tensorflow", "tensorflow_datasets", "torch", "matplotlib"}
optional |= {"gcsfs", "s3fs", "aiohttp"}
optional |= {"apache_beam"}
# JAX itself imports scipy where it is installed.
loaded = optional & set(sys.modules) - {"scipy"}
assert not loaded, f"importing vidgen imported {loaded}"
"""


def test_importing_everything_is_quiet():
    names = ["vidgen." + name_of(p) for p in MODULES if name_of(p) not in ("", "__init__")]
    names = ["vidgen", *(n for n in names if n != "vidgen.__main__")]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_light():
    heavy = "{'jax', 'flax', 'gin', 'numpy'}"
    code = f"import sys, vidgen, vidgen.cli.main; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "set()\n"


MESHES = sorted((ROOT / "gin_configs" / "mesh").glob("*.gin"))


@pytest.mark.parametrize("path", MESHES, ids=lambda p: p.stem)
def test_every_mesh_has_a_rule_for_every_axis_name(path):
    with gin_utils.session([str(path)]):
        mesh = gin_utils.build(Partitioner)
    named = {name for name, _ in mesh.rules}
    assert named == set(axes.AXES)


def axis_names_used(path):
    """String constants in tuples that are handed to a parameter or a constraint."""
    calls = {"partitioned", "with_logical_partitioning", "check_names"}
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in calls:
            tuples = [a for a in node.args if isinstance(a, ast.Tuple)]
            parts = [part for t in tuples for part in t.elts]
        elif called == "constrain":
            parts = node.args[1:]
        else:
            continue
        yield from (p.value for p in parts if isinstance(p, ast.Constant) and p.value)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_axis_names_are_in_the_vocabulary(path):
    unknown = {name for name in axis_names_used(path) if name not in axes.AXES}
    assert not unknown


def test_config_files_declare_what_they_need():
    """Each file: a comment block, its own header, and imports of all it names."""
    for root in gin_files.config_roots():
        for path in root.rglob("*.gin"):
            text = path.read_text(encoding="utf-8")
            comment = text.split("\n\n")[0] if text.startswith("#") else ""
            head = text[: text.find("from __gin__")] if "from __gin__" in text else comment
            for word in ("Defines:", "Requires:", "Often overridden:"):
                assert word in head, f"{path} does not open with a comment that says {word}"
            if any(not line.startswith(("#", "include")) and line for line in text.splitlines()):
                assert "from __gin__ import dynamic_registration" in text, path
            assert len(text) < 10_000


def test_the_map_in_contributing_is_true():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## Where is ...?")[1].split("##")[0]
    rows = re.findall(r"^\| .* \| (\S+\.py) \| (\w+) \|$", table, re.MULTILINE)
    assert len(rows) >= 30
    for file, name in rows:
        assert name in {getattr(n, "name", None) for n in tree_of(PACKAGE / file).body}, (
            file,
            name,
        )
