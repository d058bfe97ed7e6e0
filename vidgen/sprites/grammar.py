"""The caption grammar of the sprite videos, in both directions.

The canonical caption is `a tiger moving right on a green background`; four further templates say
the same in other words. A single image has no motion: `a tiger on a green background`. `parse`
inverts every form, which gives probes the truth behind any caption.
"""

from __future__ import annotations

import functools
import re

TEMPLATES = (
    "{subject} {motion} on {background}",
    "{background} with {subject} {motion}",
    "on {background}, {subject} {motion}",
    "a video of {subject} {motion} on {background}",
    "{subject} {motion} in front of {background}",
)
_STILL = "{subject} on {background}"
_SINGULAR_IN_S = re.compile(
    r"^(person|man|woman|face)\b|(bus|octopus|compass|hippopotamus|rhinoceros)$"
)
_PLURAL = re.compile(r"^(people|men|women|busts)\b")
_MASS = frozenset("fire,fog,high voltage,milky way,wood,ZZZ".split(","))
_NAMES = frozenset(("Santa Claus", "Mrs. Claus", "Mx Claus"))
_SPELLED_AN = ("hour",)
_SPELLED_A = ("uni", "one", "eu", "ewe", "use")


def noun_phrase(subject: str) -> str:
    """Put the indefinite article before a subject, if it takes one.

    Args:
      subject: name of a sprite.

    Returns:
      Such as "an owl", or "musical notes".
    """
    plural = subject.endswith("s") and not subject.endswith("ss")
    if subject in _MASS | _NAMES or _PLURAL.search(subject):
        return subject
    if plural and not _SINGULAR_IN_S.search(subject) and " with " not in subject:
        return subject
    lower = subject.lower()
    vowel = lower[0] in "aeiou" and not lower.startswith(_SPELLED_A)
    return f"{'an' if vowel or lower.startswith(_SPELLED_AN) else 'a'} {subject}"


def write(subject: str, motion: str | None, background: str, template: int = 0) -> str:
    """Write the caption of a scene.

    Args:
      subject: name of a sprite.
      motion: key of MOTIONS; None for a single image, which has a wording of its own.
      background: key of BACKGROUNDS.
      template: index into `TEMPLATES`; 0 is the canonical wording.

    Returns:
      The caption, in small letters where names have them, without a full stop.
    """
    parts = {"subject": noun_phrase(subject), "background": _background(background)}
    if motion is None:
        return _STILL.format(**parts)
    return TEMPLATES[template].format(motion=motion, **parts)


def parse(
    caption: str, subjects: tuple[str, ...], motions: tuple[str, ...], backgrounds: tuple[str, ...]
) -> tuple[str, str | None, str]:
    """Read subject, motion and background from a caption: the inverse of `write`.

    Args:
      caption: in any of the templates.
      subjects: the subjects that it may name.
      motions: the motions that it may name.
      backgrounds: the backgrounds that it may name.

    Returns:
      (subject, motion, background); motion is None for a single image.

    Raises:
      ValueError: the caption is not in this grammar over these names.
    """
    nouns = _nouns(subjects)
    for pattern in _patterns(motions, backgrounds):
        match = pattern.fullmatch(caption.strip())
        if match and match["subject"] in nouns:
            return nouns[match["subject"]], match.groupdict().get("motion"), match["background"]
    example = write(subjects[0], motions[0], backgrounds[0])
    raise ValueError(f"{caption!r} is not a caption of these sprites; expected e.g. {example!r}.")


def _background(color: str) -> str:
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} background"


@functools.lru_cache(maxsize=32)
def _nouns(subjects: tuple[str, ...]) -> dict[str, str]:
    return {noun_phrase(subject): subject for subject in subjects}


@functools.lru_cache(maxsize=32)
def _patterns(motions: tuple[str, ...], backgrounds: tuple[str, ...]) -> tuple[re.Pattern, ...]:
    def either(names: tuple[str, ...]) -> str:
        return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))

    parts = {
        "subject": "(?P<subject>.+?)",
        "motion": f"(?P<motion>{either(motions)})",
        "background": f"an? (?P<background>{either(backgrounds)}) background",
    }
    return tuple(re.compile(template.format(**parts)) for template in (*TEMPLATES, _STILL))
