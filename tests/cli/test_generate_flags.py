"""The flags of `vidgen generate` as fields of the run."""

import argparse
import math

import pytest

from vidgen.cli import generate_flags
from vidgen.cli.generate_flags import read_prompts, read_size
from vidgen.inference.per_stage import PerStage
from vidgen.inference.sampling_settings import Sampling


def settings(*arguments):
    parser = argparse.ArgumentParser()
    generate_flags.add(parser)
    return generate_flags.settings(parser.parse_args(["--model=m", *arguments]))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a"], ("imagen_demo", None)),
        (["a", "--model=m"], ("m", None)),
        (["--story=a. then b"], ("phenaki_demo", "imagen_demo")),
        (["--story=a. then b", "--upscale_model=c"], ("phenaki_demo", "c")),
        (["--story=a. then b", "--model=m"], ("m", None)),
        (["--story=a. then b", "--model=m", "--upscale_model=c"], ("m", "c")),
    ],
)
def test_models_that_come_with_the_package_where_none_is_named(arguments, expected):
    parser = argparse.ArgumentParser()
    generate_flags.add(parser)
    assert generate_flags.models(parser.parse_args(arguments)) == expected


def test_without_flags_the_run_has_its_own():
    assert settings("a cat") == {"prompts": ("a cat",)}
    assert list(story_settings("--story=a. then b")) == ["story"]


def story_settings(*arguments):
    parser = argparse.ArgumentParser()
    generate_flags.add(parser)
    return generate_flags.story_settings(parser.parse_args(["--model=m", *arguments]))


FLAGS = {  # of a film: what they give, where a file can say the same
    "--seed=0": ("seed", 0),
    "--steps=3": ("sampling", Sampling(steps=PerStage(3))),
    "--guidance=0": ("sampling", Sampling(guidance=PerStage((0.0, None)))),
    "--temperature=2": ("sampling", Sampling(temperature=PerStage(2.0))),
    "--output=a.npy": ("output", "a.npy"),
    "--context=3": ("context_frames", 3),
    "--step=7": ("checkpoint_step", PerStage(7)),
    "--restart": ("restart", True),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_of_a_film_that_was_given_is_passed_on(flag):
    name, value = FLAGS[flag]
    assert story_settings("--story=a. then b", flag)[name] == value


def test_the_frames_of_a_film_are_those_of_the_flag(tmp_path):
    (tmp_path / "s.yaml").write_text("{frames: 71, seed: 3, scenes: [a, b]}")
    found = story_settings(f"--story={tmp_path / 's.yaml'}", "--frames=23")["story"]
    assert (found.frames, found.seed) == (23, 3)


def test_all_that_may_differ_from_stage_to_stage():
    flags = ["--steps=64,base=256", "--sampler=ddim", "--gamma=base=0.5", "--threshold=static"]
    flags += ["--reconstruction=tsr1=5"]
    found = settings("a", *flags, "--guidance=base=15:1", "--batch_size=4", "--step=ssr1=100")
    assert found["sampling"] == Sampling(
        steps=PerStage(64, {"base": 256}),
        sampler=PerStage("ddim"),
        gamma=PerStage(None, {"base": 0.5}),
        guidance=PerStage(None, {"base": (15.0, 1.0)}),
        threshold=PerStage("static"),
        reconstruction=PerStage(None, {"tsr1": 5.0}),
    )
    assert found["batch_size"] == PerStage(4)
    assert found["checkpoint_step"] == PerStage(None, {"ssr1": 100})


def test_sizes():
    found = settings("a", "--size=96x160", "--frames=64")
    assert (found["size"], found["frames"]) == ((96, 160), 64)
    assert settings("a", "--frames=0")["frames"] == 0  # which the run refuses
    assert read_size(" 96 X 160") == (96, 160)
    for wrong in ("96", "96x", "axb", "-96x160", "96x160x3"):
        with pytest.raises(ValueError, match=f"--size={wrong}: .*HEIGHTxWIDTH"):
            read_size(wrong)


def test_a_prompt_is_needed_only_where_nothing_else_says_what_to_show(tmp_path):
    (tmp_path / "in.png").write_bytes(PNG)
    for flag in ("init", "first", "last"):
        assert settings(f"--{flag}={tmp_path / 'in.png'}")["prompts"] == ("",)
    with pytest.raises(ValueError, match="no prompt given"):
        settings()


# One black pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)


@pytest.mark.parametrize("flag", ["--init_size=own", "--init_start=2"])
def test_flags_without_their_file(flag):
    with pytest.raises(ValueError, match=f"{flag.partition('=')[0]} .*--init=FILE"):
        settings("a", flag)


def test_prompts_come_from_flags_and_files(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffone\n\n  two  \r\nthrée\n", encoding="utf-8")
    assert read_prompts(["zero"], str(file)) == ("zero", "one", "two", "thrée")


def test_prompt_files_that_are_wrong(tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n  \n")
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match=r"empty\.txt .*no prompt"):
        read_prompts([], str(empty))
    with pytest.raises(ValueError, match=r"binary\.txt .*UTF-8"):
        read_prompts([], str(binary))
    with pytest.raises(FileNotFoundError):
        read_prompts([], str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="no prompt given"):
        read_prompts([], None)


@pytest.mark.parametrize("read, start", [(settings, "a cat"), (story_settings, "--story=a")])
def test_a_preview_is_drawn_into_its_file(read, start, tmp_path):
    look = read(start, f"--preview={tmp_path / 'now.png'}")["on_step"]
    assert look is not None
    with pytest.raises(ValueError, match=r"unknown suffix '\.txt'"):
        read(start, "--preview=now.txt")
    with pytest.raises(ValueError, match=r"--preview .*--output .*out\.mp4"):
        read(start, "--preview=out.mp4")


CONTROLS = {  # by flag, its text, and the value in `Sampling`
    "guidance_rescale": ("0.7", PerStage(0.7)),
    "guidance_interval": ("0.2:1.6,base=0:inf", PerStage((0.2, 1.6), {"base": (0.0, math.inf)})),
    "guidance_parallel": ("base=0", PerStage(None, {"base": 0.0})),
    "guidance_norm": ("0.1", PerStage(0.1)),
    "guidance_momentum": ("-0.5", PerStage(-0.5)),
    "churn": ("40", PerStage(40.0)),
    "resample": ("10", PerStage(10)),
    "resample_jump": ("base=5", PerStage(None, {"base": 5})),
}


@pytest.mark.parametrize("read, start", [(settings, "a cat"), (story_settings, "--story=a")])
@pytest.mark.parametrize("flag", CONTROLS)
def test_controls_of_sampling(read, start, flag):
    text, value = CONTROLS[flag]
    assert read(start, f"--{flag}={text}")["sampling"] == Sampling(**{flag: value})


@pytest.mark.parametrize("text", ["1", "a:b", "1:", "base=1"])
def test_an_interval_is_two_numbers(text):
    with pytest.raises(ValueError, match=f"--guidance_interval={text}.*LOW:HIGH"):
        settings("a", f"--guidance_interval={text}")


def test_a_negative_prompt_and_a_strength():
    assert settings("a", "--negative=blurred")["negative"] == "blurred"
    assert story_settings("--story=a", "--negative=blurred")["negative"] == "blurred"
    assert settings("a", "--strength=0.6")["strength"] == 0.6
    with pytest.raises(ValueError, match="--strength .*--story"):
        story_settings("--story=a", "--strength=0.6")
