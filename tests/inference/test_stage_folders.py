"""A stage that no paper names belongs to the cascade in whose folder it lies."""

import re
import shutil

import numpy as np
import pytest
import tiny_cascade

from vidgen.cli import main
from vidgen.config.gin_sessions import Sessions
from vidgen.inference import stage_folders, stages, upscale_stages

pytestmark = pytest.mark.usefixtures("kept_programs")


def rename(folder, name, side):
    """Make the trained ssr1 of a folder a stage of another name and size."""
    config = (folder / "config.gin").read_text()
    config = re.sub(r"\bssr1\b", name, config)
    config = re.sub(r"(VideoShape\.(?:height|width)) = 32", rf"\1 = {side}", config)
    (folder / "config.gin").write_text(config)
    folder.rename(folder.parent / name)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """The stages base, tsr1 and ssr1, then `detail` of 64 x 64 and `aerial` of 128 x 128."""
    folder = tmp_path_factory.mktemp("cascade")
    for name, side in (("detail", 64), ("aerial", 128)):
        tiny_cascade.write(folder, ("ssr1",))
        rename(folder / "ssr1", name, side)
    tiny_cascade.write(folder, ("base", "tsr1", "ssr1"))
    return folder


@pytest.fixture
def generate(cascade, tmp_path):
    def run(*flags):
        output = tmp_path / "out.npy"
        output.unlink(missing_ok=True)
        code = main.main(["generate", "a", f"--model={cascade}", "-o", str(output), *flags])
        return np.load(output) if code == 0 else code

    return run


def test_stages_run_in_the_order_of_what_they_make(cascade):
    assert stage_folders.names(cascade) == ("base", "tsr1", "ssr1", "detail", "aerial")
    assert [path.name for path in stages.find(str(cascade), last="detail")][-1] == "detail"


def test_other_trainings_in_the_folder_are_not_stages(cascade, tmp_path, caplog):
    for name in ("base", "detail"):
        shutil.copytree(cascade / name, tmp_path / name)
    shutil.copytree(cascade / "base", tmp_path / "earlier_base")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.gin").write_text("MODEL = @nowhere.Net()")
    assert stage_folders.names(tmp_path) == ("base", "detail")
    assert "dynamic_registration" in caplog.text
    assert "broken" in caplog.text and "earlier_base" not in caplog.text


def test_a_tokenizer_beside_its_transformer_is_not_a_stage():
    assert [path.name for path in stages.find("phenaki_demo")] == ["maskgit"]


def test_it_generates_with_settings_of_its_own(generate):
    clip = generate("--until=detail", "--steps=detail=3")
    assert clip.shape == (16, 64, 64, 3)
    assert not np.array_equal(clip, generate("--until=detail"))


def test_a_video_is_sent_through_it(generate, cascade, tmp_path):
    generate("--until=ssr1")
    (tmp_path / "out.npy").rename(tmp_path / "small.npy")
    clip = generate(f"--init={tmp_path / 'small.npy'}", "--from=detail", "--until=detail")
    assert clip.shape == (16, 64, 64, 3)


def test_the_names_that_can_be_given_are_those_of_the_model(generate, capsys):
    assert generate("--steps=details=3") == 2
    message = capsys.readouterr().err
    assert "'details'" in message and "detail" in message and "aerial" in message


def test_stages_that_start_from_a_video(cascade):
    starts = {name: stage_folders.starts_from_video(cascade / name) for name in ("base", "aerial")}
    assert starts == {"base": False, "aerial": True}
    assert not stage_folders.starts_from_video(stages.find("phenaki_demo")[0].parent / "cvivit")
    assert stage_folders.of_models([str(cascade / "detail"), "phenaki_demo"]) == {
        "detail", "maskgit"
    }  # fmt: skip


def test_only_what_changes_a_video_may_be_named_by_upscale(cascade):
    sessions = Sessions(["runs/generate.gin"], [], [])
    chain = [
        stages.build_trained(sessions, stages.Stage, cascade / name) for name in ("base", "detail")
    ]
    upscale_stages.check_names(chain[1:], [cascade / "detail"], "detail")
    with pytest.raises(ValueError, match="base makes .* text alone"):
        upscale_stages.check_names(chain, [cascade / "base", cascade / "detail"], "base, detail")
