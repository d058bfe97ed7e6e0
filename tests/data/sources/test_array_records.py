"""Files of records: whole or not there, read in any order, damage told in a sentence."""

import pytest

from vidgen.data.sources.array_records import (
    RecordsError,
    count_records,
    read_record,
    write_records,
)


@pytest.mark.parametrize("compressed", [True, False])
def test_round_trip(tmp_path, compressed):
    records = [bytes([i]) * 1000 * i for i in range(50)]
    path = tmp_path / "a.array_record"
    write_records(path, iter(records), compressed=compressed)
    assert count_records(path) == 50
    for number in (49, 0, 7):
        assert read_record(path, number) == records[number]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_replaced(tmp_path, monkeypatch):
    """And a file of the same relative path in another folder."""
    for folder, records in (("a", [b"x"]), ("b", [b"x", b"y"]), ("a", [b"z"])):
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        write_records("records", records)
        assert count_records("records") == len(records)
        assert read_record("records", 0) == records[0]


def test_no_records(tmp_path):
    write_records(tmp_path / "a", [])
    assert count_records(tmp_path / "a") == 0
    for number in (0, 3, -1):
        with pytest.raises(RecordsError, match=f"record {number} of 0"):
            read_record(tmp_path / "a", number)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_records(tmp_path / "nowhere" / "a", [b"x"])

    def failing():
        yield b"x"
        raise KeyError("y")

    (tmp_path / "a").write_bytes(b"as it was")
    with pytest.raises(KeyError):
        write_records(tmp_path / "a", failing())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"as it was"


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    """As the writer tells of it, when it closes."""
    from vidgen.data.sources import array_records

    real = array_records.array_record_module.ArrayRecordWriter
    monkeypatch.setattr(
        array_records.array_record_module,
        "ArrayRecordWriter",
        lambda path, options: real("/dev/full", options),
    )
    with pytest.raises(OSError, match=r"a\.array_record: .*No space left"):
        write_records(tmp_path / "a.array_record", [b"x" * 100])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(RecordsError, match="no file .*nowhere"):
        count_records(tmp_path / "nowhere")
    for size in (0, 10, 131072):
        path = tmp_path / str(size)
        path.write_bytes(b"x" * size)
        with pytest.raises(RecordsError, match=rf"{path} .*no ArrayRecord"):
            read_record(path, 0)
