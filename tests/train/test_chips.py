"""The table of chips."""

from vidgen.train import chips


def test_the_longest_name_counts():
    v5e, v5p = chips.of("TPU v5 lite"), chips.of("TPU v5p")
    assert v5e and v5p and v5e.memory == 16 and v5p.memory == 95
    assert chips.of("cpu") is None


def test_the_rates_are_of_one_order():
    """Each network is slower than the one below it, and computing is dense beside memory."""
    for chip in chips.CHIPS.values():
        assert chip.memory_rate and chip.links and chip.flops / chip.memory_rate > 100
        assert (chip.network or 0) < chip.links < chip.memory_rate
