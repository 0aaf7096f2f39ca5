"""The receipts command: one named receipt leaves its picture and its numbers; a wrong name is one line with the right ones."""

import json
import subprocess
import sys

from undrift.receipts import RECEIPTS


def undrift(*arguments):
    command = [sys.executable, "-m", "undrift", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_a_receipt_leaves_its_picture_and_its_numbers(tmp_path):
    done = undrift("receipts", "centre_split", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert list(printed) == ["centre_split"]
    assert json.loads((tmp_path / "centre_split.json").read_text()) == printed["centre_split"]
    assert (tmp_path / "centre_split.png").read_bytes().startswith(b"\x89PNG")
    head, *rows = printed["centre_split"]["rows"]
    assert rows
    assert all(len(row) == len(head) for row in rows)


def test_a_wrong_name_is_one_line_with_the_right_ones(tmp_path):
    done = undrift("receipts", "centre_splt", "--out", tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(name in done.stderr for name in RECEIPTS)
