"""Mistakes in configurations are one sentence; what was used is written down whole."""

import dataclasses
import sys
import types
from pathlib import Path

import pytest

from vidgen.config import gin_files, gin_utils
from vidgen.config.gin_utils import GinError

FILE = """
from __gin__ import dynamic_registration
import gadgets
FOLDER = %gin.REQUIRED
STEPS = 7
SHAPE = @gadgets.Shape()
gadgets.Shape.sides = 4
gadgets.Job.shape = %SHAPE
gadgets.Job.folder = %FOLDER
gadgets.Job.steps = %STEPS
gadgets.Job.loud = False
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    sides: int
    color: str = "red"

    def __post_init__(self):
        if self.sides < 3:
            raise ValueError(f"Shape.sides is {self.sides}; it must be 3 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    shape: Shape
    folder: str
    steps: int = 5
    loud: bool = True


@pytest.fixture(autouse=True)
def gadgets(monkeypatch):
    module = types.ModuleType("gadgets")
    module.Shape, module.Job = Shape, Job
    monkeypatch.setitem(sys.modules, "gadgets", module)
    monkeypatch.setattr(Shape, "__module__", "gadgets")
    monkeypatch.setattr(Job, "__module__", "gadgets")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "job.gin"
    path.write_text(FILE)
    return str(path)


def resolve(files, *bindings, **given):
    with gin_utils.session([files] if isinstance(files, str) else files, bindings):
        job = gin_utils.build(Job, **given)
        return job, gin_utils.operative_config(), gin_utils.unused_bindings()


def test_builds_nested_objects(file):
    job, _, unused = resolve(file, "FOLDER='runs/a'", "Shape.sides=5")
    assert job == Job(shape=Shape(sides=5), folder="runs/a", steps=7, loud=False)
    assert type(job) is Job and type(job.shape) is Shape
    assert unused == ()


def test_later_bindings_win_and_given_fields_win_over_gin(file):
    job, _, _ = resolve(file, "FOLDER='a'", "STEPS=8", "STEPS=9", "FOLDER='b'")
    assert (job.steps, job.folder) == (9, "b")
    job, _, _ = resolve(file, folder="given", steps=1)  # so FOLDER need not be set
    assert (job.steps, job.folder) == (1, "given")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'runs/a'", "runs/a"),
        ('"runs/a"', "runs/a"),
        ("runs/a", "runs/a"),
        ("/abs/2024-run_1.x", "/abs/2024-run_1.x"),
        ("2024_run/b", "2024_run/b"),
        ("plain", "plain"),
        ("a=b", "a=b"),
    ],
)
def test_text_may_come_with_or_without_quotes(file, text, value):
    assert resolve(file, f"FOLDER={text}")[0].folder == value


def test_sessions_do_not_leak(file):
    first = resolve(file, "FOLDER='a'", "Shape.color='blue'")
    second = resolve(file, "FOLDER='a'")
    assert first[0].shape.color == "blue" and second[0].shape.color == "red"


def test_a_session_knows_a_module_by_the_name_that_its_own_files_give_it(file, tmp_path):
    renamed = tmp_path / "renamed.gin"
    renamed.write_text(
        FILE.replace("import gadgets", "import gadgets as things").replace("gadgets.", "things.")
    )
    for path, shape in (
        (file, "gadgets.Shape"),
        (renamed, "things.Shape"),
        (file, "gadgets.Shape"),
    ):
        job, config, _ = resolve(str(path), "FOLDER='a'", f"{shape}.color='blue'")
        assert job.shape.color == "blue"
        assert f"{shape}.color = 'blue'" in config


def test_operative_config_is_complete_readable_and_overridable(file, tmp_path):
    job, text, _ = resolve(file, "FOLDER='a'", "Shape.sides=6")
    assert "gadgets.Shape.color = 'red'" in text  # a default: later versions may have another
    assert "SHAPE/" not in text
    saved = tmp_path / "saved.gin"
    saved.write_text(text)
    assert resolve(str(saved)) == (job, text, ())
    assert resolve(str(saved), "Shape.sides=9")[0].shape.sides == 9


def test_operative_config_keeps_scopes_that_differ(tmp_path):
    path = tmp_path / "two.gin"
    path.write_text(
        FILE
        + "gadgets.Job.folder = 'f'\nother/gadgets.Shape.sides = 8\nSHAPE = @other/gadgets.Shape()"
    )
    job, text, _ = resolve(str(path))
    saved = tmp_path / "saved.gin"
    saved.write_text(text)
    assert job.shape.sides == 8 and resolve(str(saved))[0] == job


def test_unused_bindings_are_listed(file):
    _, _, unused = resolve(file, "FOLDER='a'", "nowhere/Shape.color='blue'")
    assert unused == ("nowhere/gadgets.Shape.color",)


def test_bindings_that_a_narrower_scope_overrides_are_unused(tmp_path):
    path = tmp_path / "scoped.gin"
    path.write_text(FILE + "SHAPE = @s/gadgets.Shape()\ns/gadgets.Shape.sides = 8\nFOLDER = 'f'")
    job, _, unused = resolve(str(path), "Shape.sides=5", "Shape.color='blue'")
    assert job.shape == Shape(sides=8, color="blue")
    assert unused == ("gadgets.Shape.sides",)


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ((), ["FOLDER is not set", "--gin.FOLDER="]),
        (("FOLER='a'",), ["FOLER", "did you mean FOLDER?", "STEPS"]),
        (("FOLDER='a'", "Shape.sids=4"), ["'sids'", "did you mean sides?", "color"]),
        (("FOLDER='a'", "Shap.sides=4"), ["Shap", "gadgets.Shape", "gadgets.Job"]),
        (("FOLDER='a'", "Shape.sides=2"), ["Shape.sides is 2; it must be 3 or more."]),
        (("FOLDER='a'", "STEPS=many"), ["STEPS", "a number like 7", "'many'"]),
        (("FOLDER='a'", "Job.loud=yes"), ["Job.loud", "takes True or False; got 'yes'"]),
        (("FOLDER='a'", "STEPS=10k"), ["STEPS", "a number like 7", "'10k'"]),
        (("FOLDER='a'", "STEPS=%NOWHERE"), ["STEPS", "%NOWHERE", "no configuration file sets"]),
        (("FOLDER='a'", "SHAPE=@Circle()"), ["SHAPE", "@Circle()"]),
        (("FOLDER='a",), ["FOLDER='a", "quotes"]),
        (("FOLDER",), ["--gin.NAME=VALUE"]),
        (("FOLDER=",), ["--gin.NAME=VALUE"]),
        (("FOLDER=true",), ["write True"]),
        (("FOLDER=none",), ["write None"]),
    ],
)
def test_wrong_bindings_are_one_sentence(file, bindings, words):
    with pytest.raises(GinError) as caught:
        resolve(file, *bindings)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gadgets.Shape.sdes = 3", ["line 3", "'sdes'", "did you mean sides?"]),
        ("gadgets.Shap.sides = 3", ["line 3", "gadgets", "Shap"]),
        ("gadgets.Job.shape = @gadgets.Shape()", ["Shape", "'sides'"]),
        ("gadgets.Job.shape = (3", ["wrong.gin", "ends inside a bracket"]),
        (
            "gadgets.Job.shape = 3 4",
            ["wrong.gin", "line 3", "cannot read 'gadgets.Job.shape = 3 4'"],
        ),
        ("import nowhere_at_all", ["line 3", "nowhere_at_all"]),
        ("include 'missing.gin'", ["line 3", "'missing.gin'"]),
        ("X = %gin.REQUIRED\ngadgets.Job.steps = %X", ["X is not set"]),
        ("gadgets.Job.shape = %SHAEP", ["gadgets.Job.shape", "%SHAEP"]),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path, text, words):
    path = tmp_path / "wrong.gin"
    path.write_text(f"from __gin__ import dynamic_registration\nimport gadgets\n{text}\n")
    with pytest.raises(GinError) as caught:
        resolve(str(path))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_include_stands_where_it_is_written(tmp_path):
    (tmp_path / "outer.gin").write_text(f"{FILE}STEPS = 1\ninclude '{tmp_path}/in.gin'\nSTEPS = 3")
    (tmp_path / "in.gin").write_text("STEPS = 2\nFOLDER = 'in'")
    job, _, _ = resolve(str(tmp_path / "outer.gin"))
    assert (job.steps, job.folder) == (3, "in")


def test_values_that_a_macro_leads_to(file, tmp_path):
    (tmp_path / "more.gin").write_text(
        "from __gin__ import dynamic_registration\nimport gadgets\n"
        "SIDES = 6\ngadgets.Shape.sides = %SIDES\ns/gadgets.Shape.sides = 8\nSTEPS = %SHAPE"
    )
    with gin_utils.session([file, str(tmp_path / "more.gin")]):
        assert sorted(gin_utils.reached_values("STEPS", "gadgets.Shape.sides")) == [6, 8]
        assert gin_utils.reached_values("FOLDER", "gadgets.Shape.sides") == []
        assert gin_utils.reached_values("NOWHERE", "gadgets.Shape.sides") == []


def test_missing_directory_macro_shows_the_quotes(tmp_path):
    path = tmp_path / "a.gin"
    path.write_text(FILE.replace("FOLDER", "MODEL_DIR"))
    with pytest.raises(GinError, match="MODEL_DIR is not set: pass --gin.MODEL_DIR=\"'runs/x'\"."):
        resolve(str(path))


def test_missing_file_names_the_nearest():
    with pytest.raises(GinError, match=r"base_tny\.gin'.* experiments/imagen_base_tiny\.gin"):
        resolve("experiments/imagen_base_tny.gin")


def test_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert gin_files.find_file("runs/train.gin").is_file()
    (tmp_path / "mine.gin").write_text("")
    assert gin_files.find_file("mine.gin") == Path("mine.gin")


def test_search_paths_come_before_the_files_of_vidgen(tmp_path, monkeypatch):
    """As in t5x: also for what a file includes, and for one that has the name of ours."""
    own = tmp_path / "own"
    (own / "runs").mkdir(parents=True)
    (own / "runs/train.gin").write_text(FILE + "STEPS = 3\n")
    (own / "job.gin").write_text("include 'runs/train.gin'\nFOLDER = 'own'\n")
    with gin_files.searching([str(own)]):
        assert resolve("job.gin")[0] == Job(shape=Shape(sides=4), folder="own", steps=3, loud=False)
    with pytest.raises(GinError, match=r"no configuration file 'job\.gin'"):
        resolve("job.gin")
    with (
        pytest.raises(GinError, match="--gin_search_paths: .*nowhere"),
        gin_files.searching(["nowhere"]),
    ):
        pass


def test_a_run_that_no_file_binds_is_refused(tmp_path):
    (tmp_path / "empty.gin").write_text("")

    class Nothing:
        pass

    with gin_utils.session([str(tmp_path / "empty.gin")]):
        with pytest.raises(GinError, match=r"binds .*Nothing; .*runs/\*\.gin"):
            gin_utils.build(Nothing)


# ---- what one file says, changed by the next ---------------------------------------------------

LATER = """
from __gin__ import dynamic_registration
import gadgets
RUN = @gadgets.Pair()
SHAPE = @later/gadgets.Shape()
later/gadgets.Shape.sides = 9
gadgets.Pair.shape = %SHAPE
gadgets.Pair.folder = %FOLDER
gadgets.Pair.other = %OLD_SHAPE
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair(Job):
    other: Shape


def test_a_renamed_macro_is_what_a_later_file_replaces(file, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["gadgets"], "Pair", Pair, raising=False)
    monkeypatch.setattr(Pair, "__module__", "gadgets")
    later = tmp_path / "later.gin"
    later.write_text(LATER)
    renamed = {file: {"SHAPE": "OLD_SHAPE"}}
    with gin_utils.session([file, str(later)], ["FOLDER='a'"], renamed):
        assert gin_utils.named_by("RUN") is Pair
        pair = gin_utils.build(Pair)
        saved = gin_utils.operative_config()
    assert (pair.shape.sides, pair.other.sides) == (9, 4)
    # What is saved says it all, the run included, and needs no renaming.
    (tmp_path / "saved.gin").write_text(saved)
    with gin_utils.session([str(tmp_path / "saved.gin")]):
        assert gin_utils.build(gin_utils.named_by("RUN")) == pair


def test_what_cannot_be_renamed(file, tmp_path):
    with pytest.raises(GinError, match="sets no MODEL"):
        with gin_utils.session([file], [], {file: {"MODEL": "TEACHER"}}):
            pass
    with pytest.raises(GinError, match="STEPS already; .*SHAPE .*another STEPS"):
        with gin_utils.session([file], [], {file: {"SHAPE": "STEPS"}}):
            pass


@pytest.mark.parametrize(
    "name, value", [("STEPS", "7"), ("NOTHING", "None"), ("FOLDER", "REQUIRED")]
)
def test_a_macro_that_names_no_class(file, name, value):
    with gin_utils.session([file]):
        with pytest.raises(GinError, match=f"{name} is .*{value}.*name a class"):
            gin_utils.named_by(name)


def test_a_given_field_is_not_built_from_gin(tmp_path):
    """Gin would build what a binding refers to even where the caller has something else."""
    path = tmp_path / "job.gin"
    path.write_text(FILE.replace("Shape.sides = 4", "Shape.sides = 2"))  # which Shape refuses
    with gin_utils.session([str(path)]):
        job = gin_utils.build(Job, shape=Shape(sides=3), folder="a")
    assert job.shape.sides == 3


def test_an_excerpt_wins_over_files_and_loses_to_bindings(file):
    text = "from __gin__ import dynamic_registration\nimport gadgets\ngadgets.Job.steps = 7\n"
    for bindings, steps in ((["FOLDER='a'"], 7), (["FOLDER='a'", "Job.steps=9"], 9)):
        with gin_utils.session([file], bindings, excerpts=[text], trusted=["gadgets"]):
            assert gin_utils.build(Job).steps == steps
    with pytest.raises(GinError, match="tokenizer's .*imports gadgets"):
        with gin_utils.session([file], excerpts=[text]):
            pass
