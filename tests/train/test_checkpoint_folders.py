"""Folders of checkpoints while other processes write into them."""

import contextlib
import threading
import time

from etils import epath

from vidgen.train import checkpoint_folders


def test_a_folder_is_removed_though_others_go_on_writing(tmp_path):
    folder = epath.Path(tmp_path / "folder")

    def write():
        for number in range(40):
            (tmp_path / folder.name / "d").mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (tmp_path / folder.name / "d" / str(number)).write_text("x")
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    checkpoint_folders.remove_folder(folder)
    writer.join()
    assert not folder.exists()
