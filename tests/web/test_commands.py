"""What is typed becomes words of the command that mean just that, whatever it is."""

import shlex

import pytest

from vidgen.cli import main
from vidgen.story import parse
from vidgen.web import commands
from vidgen.web.commands import MAX_SCENES, MAX_TEXT


def parsed(words):
    return main._parsed(["generate", *words])


def of_line(command):
    """The flags of the line that is shown, as a shell would pass it on."""
    program, *words = shlex.split(command.line())
    assert program == "vidgen"
    return main._parsed(words)


PROMPTS = [
    "a cat", "it's a cat", 'a "cat" & $HOME `ls`', "-o", "--model=/etc/passwd",
    "--gin.TRAIN_STEPS=1", "--", "a -- b", "é 猫 \U0001f431", "--gin_file=x", "a\\nb",
    "@/etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS)
def test_any_prompt_stays_a_prompt(prompt):
    command = commands.clip(prompt, model="imagen_demo", seed="5", steps="")
    run = parsed(command.words("/tmp/x/clip.mp4"))
    shown = of_line(command)
    assert (run.output, shown.output) == ("/tmp/x/clip.mp4", "clip.mp4")
    for flags in (run, shown):
        assert flags.prompts == [prompt]
        assert (flags.model, flags.seed, flags.steps) == ("imagen_demo", 5, None)
        assert flags.bindings == [] and flags.gin_file == []


@pytest.mark.parametrize("prompt", PROMPTS)
def test_any_scene_and_any_setting_stay_so_too(prompt):
    if prompt == "--":  # of which Python's parser makes nothing
        with pytest.raises(ValueError, match="--guidance is --;"):
            commands.story(["a"], guidance=prompt)
        return
    command = commands.story(["", prompt, " b "], model="m", guidance=prompt)
    for flags in (parsed(command.words("o.mp4")), of_line(command)):
        assert [scene.prompt for scene in parse.load(flags.story).scenes] == [prompt, "b"]
        assert (flags.guidance, flags.model) == (prompt, "m")
        assert flags.bindings == [] and flags.gin_file == [] and flags.prompts == []


def test_lines_as_a_person_would_write_them():
    command = commands.clip("a cat", model="runs/a", until=None, seed="0")
    assert command.line() == "vidgen generate 'a cat' --model=runs/a --seed=0 --output=clip.mp4"
    command = commands.story(["a cat", "a dog"], seed="1")
    assert command.line() == (
        "vidgen generate --story='a cat. then a dog' --seed=1 --output=clip.mp4"
    )


def test_text_is_brought_to_one_line():
    command = commands.clip(" a \n\tcat\x00 runs\u2028on ")
    assert parsed(command.words("o.mp4")).prompts == ["a cat runs on"]


@pytest.mark.parametrize(
    ("scenes", "words"),
    [
        ([], "There is no scene"),
        ([" ", ""], "There is no scene"),
        (["a cat. then a dog", "b"], "Scene 1 ends"),
        (["b", "a cat.", "c"], "Scene 2 ends"),
        (["then a cat", "b; then c"], "Scene 2 ends"),
        (["/etc/story.yaml"], r"end in \.yaml"),
        (["a story.JSON#3 of it", "b"], r"end in \.JSON"),
        (["a" * (MAX_TEXT + 1)], f"Scene 1 has {MAX_TEXT + 1} characters"),
    ],
)
def test_scenes_that_one_line_cannot_hold(scenes, words):
    with pytest.raises(ValueError, match=words):
        commands.story(scenes)


def test_as_many_scenes_as_the_page_has():
    scenes = [f"scene number {i}" for i in range(MAX_SCENES)]
    (story,) = commands.story(scenes).flags
    told = parse.load(story.removeprefix("--story="))
    assert [scene.prompt for scene in told.scenes] == scenes


@pytest.mark.parametrize("prompt", ["", " \n", "\x00"])
def test_no_prompt(prompt):
    with pytest.raises(ValueError, match="prompt is empty"):
        commands.clip(prompt)


def test_long_text():
    commands.clip("a" * MAX_TEXT)
    with pytest.raises(ValueError, match=r"prompt .*1001 characters, .* 1000\."):
        commands.clip("a" * (MAX_TEXT + 1))
    with pytest.raises(ValueError, match="--steps has 1001 characters"):
        commands.clip("a", steps="1" * (MAX_TEXT + 1))


def test_an_upload_is_shown_by_its_name():
    command = commands.upscaling("/tmp/up/ab12/my clip.mp4", "", **{"from": "ssr1", "model": "m"})
    flags = parsed(command.words("o.mp4"))
    assert (flags.init, flags.first_stage, flags.prompts) == (
        "/tmp/up/ab12/my clip.mp4",
        "ssr1",
        [],
    )
    assert command.line() == (
        "vidgen generate --from=ssr1 --model=m --init='my clip.mp4' --output=clip.mp4"
    )
    command = commands.upscaling("/tmp/a.GIF", "a cat")
    assert parsed(command.words("o.mp4")).prompts == ["a cat"]
    assert of_line(command).init == "a.GIF"


@pytest.mark.parametrize("name", ["a.exe", "a", "a.npy", "a.mp4.sh", "a.yaml"])
def test_uploads_of_another_kind(name):
    with pytest.raises(ValueError, match=rf"{name} .*no clip .*\.mp4"):
        commands.upscaling(f"/tmp/{name}", "")
    with pytest.raises(ValueError, match="There is no clip"):
        commands.upscaling(None, "")
