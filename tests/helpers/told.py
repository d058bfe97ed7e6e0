"""What a command line says."""

from typing import NamedTuple


class Told(NamedTuple):
    """What a command line left behind."""

    status: int
    out: str
    err: str

    def assert_sentence(self, *words: str) -> None:
        """Status 2, nothing on stdout, one line on stderr that says `words`."""
        assert (self.status, self.out) == (2, ""), self.err
        assert self.err.startswith("vidgen: error: ") and self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err, self.err
