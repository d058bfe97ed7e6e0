"""Configurations of strangers: which are read, and that the others run nothing."""

import sys

import pytest
from places import FILES, ROOT

from vidgen.config import gin_files, gin_utils, untrusted
from vidgen.config.gin_files import Untrusted
from vidgen.config.gin_sessions import Sessions
from vidgen.config.gin_utils import GinError
from vidgen.config.untrusted import check
from vidgen.inference.stages import Stage

HEAD = "from __gin__ import dynamic_registration\n"
SAVED = [*(ROOT / "vidgen" / "zoo_models").rglob("config.gin"), *FILES.rglob("config.gin")]
SHELL = "import os\nMODEL = @os.system()\nos.system.command = 'touch {mark}'\n"

# What would run something, or leave vidgen, and a word of the sentence that says so.
REFUSED = {
    "a module of Python": (HEAD + SHELL, "imports os,"),
    "from a package": (HEAD + "from os import path\n", "imports os.path"),
    "over two lines": (HEAD + "from os \\\n  import path\n", "imports os.path"),
    "a module of no model": (HEAD + "from vidgen.cli import main\n", "imports vidgen.cli.main"),
    "the package itself": (HEAD + "import vidgen\n", "imports vidgen,"),
    "through a module": (
        HEAD + "from vidgen.data import pipeline\nX = @pipeline.np.load()\n",
        "uses pipeline.np.load,",
    ),
    "inside of values": (
        HEAD + "from vidgen.data import pipeline\nX = [{'a': (1, @s/pipeline.np.save)}]\n",
        "uses pipeline.np.save",
    ),
    "a binding": (
        HEAD + "from vidgen.data import pipeline\ns/pipeline.np.load.file = 'x'\n",
        "uses pipeline.np.load",
    ),
    "a block": (
        HEAD + "from vidgen.data import pipeline\npipeline.np.load:\n  file = 'x'\n",
        "uses pipeline.np.load",
    ),
    "a function": (
        HEAD + "from vidgen.train import weights\nX = @weights.write()\n",
        "uses weights.write",
    ),
    "a method": (
        HEAD + "from vidgen import types\nX = @types.VideoShape.__init__()\n",
        "uses types.VideoShape.__init__",
    ),
    "a class that is no settings": (
        HEAD + "from vidgen.train import checkpoints\nX = @checkpoints.Checkpointer()\n",
        "uses checkpoints.Checkpointer",
    ),
    "a name of gin's": (HEAD + "X = @gin.singleton()\n", "uses gin.singleton"),
    "a name of nothing": (HEAD + "X = @nothing.Class()\n", "uses nothing.Class"),
    "two modules of one name": (
        HEAD + "from vidgen.data import pipeline\nfrom vidgen.train import train as pipeline\n",
        "modules as pipeline",
    ),
    "another file": (HEAD + "include 'other.gin'\n", "includes other.gin"),
    "names by their ends": ("from vidgen import types\nX = 1\n", "lacks dynamic_registration"),
    "no configuration": (HEAD + "X = (1,\n", "c.gin .*inside a bracket"),
    "no line of gin": (HEAD + "X 1\n", "line 2: cannot read 'X 1'"),
}


@pytest.mark.parametrize("path", SAVED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_what_training_saves_is_read(path):
    text = gin_files.read(path)
    assert check(text, str(path)) == text


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    text, words = REFUSED[name]
    with pytest.raises(GinError, match=words.replace("(", "\\(")):
        check(text, "c.gin")


def test_a_refused_file_runs_nothing(tmp_path, vidgen):
    mark = tmp_path / "it_ran"
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "config.gin").write_text(HEAD + SHELL.format(mark=mark))
    (tmp_path / "evil" / "checkpoints").mkdir()
    names = ["--model=evil", "evil"]
    commands = [["generate", "a", names[0]], ["evaluate", names[0]], ["export", "evil", "-o", "x"]]
    train = "--gin_file=experiments/imagen_distill_tiny.gin"
    commands.append(["train", train, "--gin.TEACHER_DIR=evil", "--gin.MODEL_DIR=m"])
    for command in commands:
        vidgen(*command).assert_sentence("evil/config.gin imports os")
    assert not mark.exists() and not (tmp_path / "x").exists() and not (tmp_path / "m").exists()


def test_a_refused_tokenizer_runs_nothing(tmp_path, vidgen):
    mark = tmp_path / "it_ran"
    (tmp_path / "evil").mkdir()
    text = HEAD + SHELL.format(mark=mark).replace("MODEL", "TOKENIZER")
    (tmp_path / "evil" / "config.gin").write_text(text)
    train = "--gin_file=experiments/phenaki_maskgit_tiny.gin"
    told = vidgen("train", train, "--gin.TOKENIZER_DIR=evil", "--gin.MODEL_DIR=m")
    told.assert_sentence("the tokenizer's configuration imports os")
    assert not mark.exists()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own, and the configuration of a model that has a network of it."""
    (tmp_path / "own_net.py").write_text(
        "import dataclasses\nimport os\n@dataclasses.dataclass\nclass Net:\n  width: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.gin").write_text(HEAD + "import own_net\n")
    (tmp_path / "more.gin").write_text(f"{HEAD}include '{tmp_path / 'own.gin'}'\n")
    yield tmp_path
    sys.modules.pop("own_net", None)


def test_a_module_of_the_users_own_is_read_where_a_file_of_the_user_imports_it(own):
    saved = HEAD + "import own_net\nMODEL = @own_net.Net()\n"
    with pytest.raises(GinError, match="imports own_net.*--gin_file"):
        check(saved, "c.gin")
    assert "own_net" not in sys.modules
    for file in ("own.gin", "more.gin"):
        trusted = untrusted.packages_of([str(own / file)])
        assert trusted == {"own_net"}
        assert check(saved, "c.gin", trusted) == saved
        with pytest.raises(GinError, match="uses own_net.os.system"):
            check(saved.replace("Net()", "os.system()"), "c.gin", trusted)


def test_sessions_take_the_word_of_the_users_files(own):
    (own / "m").mkdir()
    (own / "m" / "config.gin").write_text(
        HEAD + "import own_net\nMODEL = @own_net.Net()\n# no width\n"
    )
    with pytest.raises(GinError, match="imports own_net"):
        Sessions(["runs/generate.gin"], [], []).trained_values(own / "m", "MODEL", "width")
    sessions = Sessions(["runs/generate.gin"], [str(own / "own.gin")], [])
    assert sessions.trained_values(own / "m", "MODEL", "width") == []
    with pytest.raises(GinError, match="TEXT_ENCODER"):  # it went on to the next thing
        sessions.build_trained(Stage, own / "m")


def test_modules_that_a_data_set_would_import_are_left_out(tmp_path):
    """Until the user names them."""
    text = HEAD + (
        "from vidgen.data.sources import seqio_source\nDATASET = @seqio_source.SeqioSource()\n"
        "seqio_source.SeqioSource.modules = ('evil',)\nseqio_source.SeqioSource.name = 'a'\n"
    )
    (tmp_path / "config.gin").write_text(text)
    saved = Untrusted(tmp_path / "config.gin")
    for file, modules in ((saved, []), (str(saved), [("evil",)])):
        with gin_utils.session([file]):
            assert gin_utils.reached_values("DATASET", "SeqioSource.modules") == modules
            assert gin_utils.reached_values("DATASET", "SeqioSource.name") == ["a"]
    with gin_utils.session([saved], ["SeqioSource.modules=('mine',)"]):
        assert gin_utils.reached_values("DATASET", "SeqioSource.modules") == [("mine",)]


@pytest.mark.parametrize("detour", ["", "vidgen/../"])
def test_only_what_lies_in_the_package_came_with_it(tmp_path, monkeypatch, detour):
    """Not what a path or a link leads to from there."""
    (tmp_path / "vidgen").mkdir()
    monkeypatch.setattr(gin_files, "PACKAGE", tmp_path / "vidgen")
    own, strange = tmp_path / "vidgen" / "config.gin", tmp_path / detour / "config.gin"
    own.write_text(HEAD + "import os\n")
    strange.write_text(HEAD + "import os\n")
    (tmp_path / "vidgen" / "link.gin").symlink_to(strange)
    assert untrusted.checked(Untrusted(own)) == own
    for path in (strange, tmp_path / "vidgen" / "link.gin"):
        with pytest.raises(GinError, match="imports os"):
            untrusted.checked(Untrusted(path))
