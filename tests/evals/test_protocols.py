"""Protocols say what they do, and what is otherwise than published."""

import pytest

from vidgen.evals.protocols import Protocol
from vidgen.types import VideoShape


def test_deviations_are_listed():
    protocol = Protocol(name="x", clips=10, given=5, published={"clips": 256, "frames": 16})
    facts = protocol.facts(VideoShape(frames=16, height=64, width=48, fps=8.0))
    assert facts["deviations"] == ["clips 10, published 256"]
    assert (facts["frames"], facts["height"], facts["width"], facts["given"]) == (16, 64, 48, 5)
    assert "deviations" not in Protocol().facts(VideoShape(frames=1, height=2, width=2))


def test_wrong_values_are_told():
    with pytest.raises(ValueError, match="task is 'guess'; .*generate"):
        Protocol(task="guess")
    with pytest.raises(ValueError, match="--clips is 0"):
        Protocol(clips=0)
