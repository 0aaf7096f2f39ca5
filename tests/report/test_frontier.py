"""The picture of strengths tried: what is drawn where."""

import math

from undrift.guidance import Frontier, Tried
from undrift.report.frontier import frontier

FOUND = Frontier(
    (Tried(1.0, 0.6, 0.70, 0.20, 0.01), Tried(2.0, 0.8, 0.55, 0.12, 0.01), Tried(4.0, 0.95, 0.30, 0.35, math.nan)),
    Tried(math.nan, 0.75, 0.6, 0.08, math.nan),
    2.0,
    (2.0,),
    300,
    3,
)


def test_a_picture_is_written_where_told(tmp_path):
    file = frontier(FOUND, tmp_path / "new" / "scale.png", "flowers: how strong?", "mm")
    assert file == tmp_path / "new" / "scale.png"
    assert file.read_bytes().startswith(b"\x89PNG")
    assert len(file.read_bytes()) > 20_000  # axes, a curve and its numbers, not an empty sheet
