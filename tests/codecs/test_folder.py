"""Pictures of every form come out as they are seen, their classes are found, and a bad file is named with its cure."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from undrift.codecs import Source
from undrift.codecs.folder import Names, PictureFolder
from undrift.codecs.pictures import Layout, header, pixels, rounded_size
from undrift.errors import DataError

RNG = np.random.default_rng(0)


def gray(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array


def said(folder):
    return "\n".join(f"{what}: {words}" for what, words in folder.describe())


@pytest.fixture
def flowers(tmp_path):
    """Three roses and two tulips, 6 x 8, exact files."""
    for name in ("rose/b.png", "rose/a.png", "rose/deep/c.bmp", "tulip/1.PNG", "tulip/2.tif"):
        save(tmp_path / "flowers" / name, gray(6, 8, 3))
    return tmp_path / "flowers"


def test_pictures_come_in_the_order_of_their_names_with_sub_folders_as_classes(flowers):
    source = PictureFolder(flowers)
    assert isinstance(source, Source)
    names = ["rose/a.png", "rose/b.png", "rose/deep/c.bmp", "tulip/1.PNG", "tulip/2.tif"]
    assert [str(source.file(i).relative_to(flowers)) for i in range(5)] == names
    assert source.labels == ["rose"] * 3 + ["tulip"] * 2
    taken = source.take(np.array([4, 0, 4]))
    assert taken.dtype == np.uint8
    for image, name in zip(taken, (names[4], names[0], names[4]), strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(flowers / name)))
    assert "2 classes: rose (3), tulip (2)" in said(source)
    assert "size: 6 x 8, as they are" in said(source)


def test_an_epoch_has_every_picture_once(flowers):
    rows = np.concatenate(list(PictureFolder(flowers).order(np.random.default_rng(0))))
    assert sorted(rows) == list(range(5))


def test_hidden_files_and_other_files_are_passed_over_and_empty_folders_said(flowers):
    (flowers / ".thumbs").mkdir()
    save(flowers / ".thumbs" / "x.png", gray(2, 2))
    save(flowers / "rose" / "._a.png", gray(2, 2))
    (flowers / "rose" / "notes.txt").write_text("x")
    (flowers / "violet").mkdir()
    source = PictureFolder(flowers)
    assert len(source) == 5
    assert "left out: folders without pictures: violet" in said(source)
    assert set(source.labels) == {"rose", "tulip"}


def test_one_sub_folder_or_pictures_beside_sub_folders_make_no_classes(tmp_path):
    for name in ("all/1.png", "all/2.png"):
        save(tmp_path / name, gray(4, 4))
    assert PictureFolder(tmp_path).labels is None
    save(tmp_path / "3.png", gray(4, 4))
    source = PictureFolder(tmp_path)
    assert source.labels is None
    assert "sub-folders are no classes" in said(source)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_orientation_is_applied(orientation, tmp_path):
    seen = np.kron(RNG.integers(0, 2, (3, 2), dtype=np.uint8) * 255, np.ones((8, 8), np.uint8))  # 24 x 16 blocks of a codec
    back = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.T}
    back |= {6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].T, 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "b.jpg"):
        save(tmp_path / name, np.ascontiguousarray(back[orientation](seen)), exif=exif, quality=100)
    source = PictureFolder(tmp_path)
    assert source.layout.shape == (24, 16)
    np.testing.assert_allclose(source.take(np.array([0]))[0].astype(int), seen, atol=3)  # the codec's own loss


def test_palettes_are_expanded_and_a_gifs_first_frame_is_taken(tmp_path):
    frames = [Image.fromarray(np.full((5, 5, 3), c, np.uint8)) for c in ([250, 0, 0], [0, 250, 0])]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[1].convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "b.png")
    taken = PictureFolder(tmp_path).take(np.arange(2))
    np.testing.assert_array_equal(taken[:, 2, 2], [[250, 0, 0], [0, 250, 0]])


def test_sixteen_bits_are_kept(tmp_path):
    deep = RNG.integers(0, 65536, (2, 5, 4), dtype=np.uint16)
    save(tmp_path / "a.png", deep[0])
    save(tmp_path / "b.tif", deep[1])
    taken = PictureFolder(tmp_path).take(np.arange(2))
    assert taken.dtype == np.uint16
    np.testing.assert_array_equal(taken, deep)
    flat = save(tmp_path / "c.png", gray(5, 4))
    source = PictureFolder(tmp_path)
    assert "stretched to 16 bits" in said(source)
    np.testing.assert_array_equal(source.take(np.array([2, 0])), [flat.astype(int) * 257, deep[0]])
    colour = save(tmp_path / "d.png", gray(5, 4, 3))
    source = PictureFolder(tmp_path)
    assert "cut to 8 bits" in said(source)
    taken = source.take(np.array([0, 3]))
    np.testing.assert_array_equal(taken[0], np.repeat(deep[0][..., None] >> 8, 3, -1))
    np.testing.assert_array_equal(taken[1], colour)


def test_gray_stays_gray_and_becomes_colour_beside_colour(tmp_path):
    one, two = save(tmp_path / "a.png", gray(4, 4)), save(tmp_path / "b.png", gray(4, 4))
    np.testing.assert_array_equal(PictureFolder(tmp_path).take(np.arange(2)), [one, two])
    save(tmp_path / "c.png", gray(4, 4, 3))
    source = PictureFolder(tmp_path)
    np.testing.assert_array_equal(source.take(np.array([0]))[0], np.repeat(one[..., None], 3, -1))
    assert "gray becomes colour" in said(source)
    assert PictureFolder(tmp_path, channels=1).layout.shape == (4, 4)


def test_transparency_is_kept_if_any_picture_uses_it(tmp_path):
    opaque = gray(4, 4, 4)
    opaque[..., 3] = 255
    save(tmp_path / "a.png", opaque)
    save(tmp_path / "b.png", gray(4, 4, 3))
    source = PictureFolder(tmp_path)
    np.testing.assert_array_equal(source.take(np.array([0]))[0], opaque[..., :3])
    assert "transparency is dropped: each of the 1 pictures looked at is opaque" in said(source)
    clear = opaque.copy()
    clear[1, 1, 3] = 7
    save(tmp_path / "c.png", clear)
    source = PictureFolder(tmp_path)
    taken = source.take(np.arange(3))
    assert taken.shape == (3, 4, 4, 4)
    np.testing.assert_array_equal(taken[2], clear)
    assert (taken[1, ..., 3] == 255).all()
    assert "transparency is kept" in said(source)
    assert PictureFolder(tmp_path, channels=3).take(np.arange(3)).shape == (3, 4, 4, 3)


def test_transparency_that_was_overlooked_is_never_dropped_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr("undrift.codecs.folder.LOOKED_AT", 2)
    opaque = np.full((4, 4, 4), 255, np.uint8)
    for i in range(12):
        save(tmp_path / f"{i:02d}.png", opaque)
    source = PictureFolder(tmp_path)
    save(tmp_path / "03.png", opaque - 9)
    with pytest.raises(DataError, match=r"03.png cannot be read: it is not opaque.*channels=4 to keep"):
        source.take(np.arange(12))


def test_arrays_and_pages_have_any_number_of_channels(tmp_path):
    stack = RNG.normal(size=(3, 4, 6, 5)).astype(np.float32)
    (tmp_path / "arrays").mkdir()
    for i, array in enumerate(stack):
        np.save(tmp_path / "arrays" / f"{i}.npy", array)
    taken = PictureFolder(tmp_path / "arrays").take(np.arange(3))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, stack)
    pages = gray(2, 5, 4, 6)
    (tmp_path / "pages").mkdir()
    for i, file in enumerate(pages):
        first, *rest = (Image.fromarray(page) for page in file)
        first.save(tmp_path / "pages" / f"{i}.tif", save_all=True, append_images=rest)
    np.testing.assert_array_equal(PictureFolder(tmp_path / "pages").take(np.arange(2)), pages.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(PictureFolder(tmp_path / "pages", channels=1).take(np.arange(2)), pages[:, 0])


def test_kinds_that_do_not_go_together_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    np.save(tmp_path / "b.npy", np.zeros((4, 4, 2)))
    with pytest.raises(DataError, match=r"1 channels of float64 and 2 channels of float64"):
        PictureFolder(tmp_path)
    save(tmp_path / "c.png", gray(4, 4))
    with pytest.raises(DataError, match=r"holds pictures and \.npy arrays; give a folder of one kind"):
        PictureFolder(tmp_path)


def test_mixed_sizes_are_scaled_to_cover_and_cut_to_the_middle(tmp_path):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, :32], wide[:, 32:64], wide[:, 64:] = [255, 0, 0], [0, 255, 0], [0, 0, 255]  # the middle is green
    save(tmp_path / "wide.png", wide)
    save(tmp_path / "tall.png", wide.transpose(1, 0, 2))
    save(tmp_path / "small.png", gray(40, 41, 3))
    source = PictureFolder(tmp_path)
    assert source.layout.shape == (32, 32, 3)
    assert "3 sizes" in said(source)
    np.testing.assert_array_equal(source.take(np.array([1, 2])), np.broadcast_to([0, 255, 0], (2, 32, 32, 3)))
    small = PictureFolder(tmp_path, size=16).take(np.array([2]))[0, :, 2:-2]
    assert (np.abs(small.astype(int) - [0, 255, 0]) <= 1).all()
    assert PictureFolder(tmp_path, size=(8, 12)).layout.shape == (8, 12, 3)


def test_scaling_down_does_not_alias(tmp_path):
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(
        np.uint8
    )  # one pixel of each: the mean is all that a grid of 8 can show
    for name in ("a.png", "b.png"):
        save(tmp_path / name, checks)
    assert np.abs(PictureFolder(tmp_path, size=8).take(np.array([0])).astype(int) - 127.5).max() <= 2.5
    np.save(tmp_path / "a.npy", checks.astype(np.float64))
    layout = Layout(8, 8, 1, False, False, "float64", True)
    assert np.abs(pixels(tmp_path / "a.npy", layout) - 127.5).max() <= 2.5


def test_a_large_jpeg_decoded_in_part_is_the_large_jpeg_scaled(tmp_path):
    y, x = np.mgrid[0:512, 0:512] / 512
    smooth = np.stack([255 * x, 255 * y, 255 * x * y], -1).astype(np.uint8)
    for name in ("a.jpg", "b.jpg"):
        save(tmp_path / name, smooth, quality=95)
    centre = (np.arange(16) + 0.5) / 16 * 255
    taken = PictureFolder(tmp_path, size=16).take(np.array([0]))[0].astype(float)
    np.testing.assert_allclose(taken[..., 0], np.broadcast_to(centre, (16, 16)), atol=4)
    np.testing.assert_allclose(taken[..., 1], np.broadcast_to(centre[:, None], (16, 16)), atol=4)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((28, 28), (28, 28)), ((33, 64), (33, 64)), ((65, 65), (64, 64)), ((3000, 4000), (48, 64)), ((10, 900), (8, 64))],
)
def test_sizes_are_capped_in_whole_eights(size, wanted):
    assert rounded_size(*size, 64) == wanted


def test_a_table_of_classes_inside_or_beside(flowers):
    lines = ["file,class,note"] + [f"{name},{i % 2},x" for i, name in enumerate(["tulip/2.tif", "rose/a.png", "./rose/b.png"])]
    lines += ["rose\\deep\\c.bmp,1,x", "flowers/tulip/1.PNG,0,x"]
    (flowers / "labels.csv").write_text("\n".join(lines))
    assert PictureFolder(flowers).labels == [1, 0, 1, 0, 0]
    os.rename(flowers / "labels.csv", flowers.parent / "labels.csv")
    assert PictureFolder(flowers).labels == [1, 0, 1, 0, 0]
    assert PictureFolder(flowers, labels=False).labels is None
    (flowers.parent / "labels.csv").unlink()
    (flowers.parent / "else.csv").write_text("\n".join(",".join(line.split(",")[:2]) for line in lines[1:]))
    assert PictureFolder(flowers, labels=flowers.parent / "else.csv").labels == [1, 0, 1, 0, 0]
    assert PictureFolder(flowers, labels=list("abcde")).labels == list("abcde")
    np.save(flowers.parent / "y.npy", np.arange(5))
    assert PictureFolder(flowers, labels=flowers.parent / "y.npy").labels == list(range(5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\nrose/a.png,1\nrose/x.png,2\n", "names 1 files that are not in .*: rose/x.png; correct the names"),
        ("file,class\nrose/a.png,1\n", "has no class for 4 of 5 pictures.*rose/b.png.*add them, or open with labels=False"),
        ("file,class\nrose/a.png,1\nrose/a.png,2\n", "names rose/a.png twice"),
        ("a,b,c\n1,2,3\n", "has the columns a, b, c; it needs 'file'"),
        ("", "has the columns none"),
        ("file,class\nrose/a.png\n", "too few cells in line 2"),
    ],
)
def test_a_table_of_classes_that_does_not_fit_is_refused(flowers, text, message):
    (flowers / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        PictureFolder(flowers)


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("name", ["truncated.png", "truncated.jpg", "truncated.webp", "truncated.gif"])
def test_bad_files_are_named_on_opening_and_can_be_left_out(flowers, name):
    save(flowers / "rose" / name, gray(40, 40, 3))
    cut(flowers / "rose" / name, 0.7)
    (flowers / "rose" / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=rf"2 of 7 files .*rose/text.png \(it is no picture.*rose/{name} .*skip_bad=True"):
        PictureFolder(flowers)
    source = PictureFolder(flowers, skip_bad=True)
    assert len(source) == 5
    assert len(source.labels) == 5
    assert "left out: 2 of 7 files that cannot be read: rose/text.png" in said(source)
    source.take(np.arange(5))


def test_damage_within_is_named_when_it_is_read_and_left_out_when_asked(flowers):
    content = bytearray((flowers / "rose" / "a.png").read_bytes())
    middle = content.index(b"IDAT") + 12
    content[middle : middle + 8] = b"\xff" * 8
    (flowers / "rose" / "a.png").write_bytes(content)
    source = PictureFolder(flowers)
    with pytest.raises(
        DataError, match=r"rose/a.png cannot be read: .*Repair or remove it, or open the folder with skip_bad=True"
    ):
        source.take(np.arange(5))
    assert len(PictureFolder(flowers, skip_bad=True)) == 4


def test_bytes_behind_a_picture_do_no_harm(flowers):
    with open(flowers / "rose" / "a.png", "ab") as stream:
        stream.write(b"\0" * 500)
    assert len(PictureFolder(flowers)) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: None, "holds no pictures .*but nothing; give the folder"),
        (lambda d: (d / "notes.txt").write_text("x"), "holds no pictures .*but 1 .txt"),
        (lambda d: save(d / "a.png", gray(4, 4)), "holds 1 picture that can be read; give at least 2"),
        (lambda d: (d / "a.png").write_text("x"), "1 of 1 files"),
    ],
)
def test_folders_with_nothing_to_learn_from_are_refused(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        PictureFolder(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        PictureFolder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("option", "message"), [({"size": 0}, "size=0 is not"), ({"size": (8,)}, "size="), ({"channels": 2}, "channels=2 is not")]
)
def test_options_are_checked(flowers, option, message):
    with pytest.raises(DataError, match=message):
        PictureFolder(flowers, **option)


def test_a_digest_tells_files_sizes_and_classes(flowers):
    first = PictureFolder(flowers).digest()
    assert PictureFolder(flowers).digest() == first
    digests = {first, PictureFolder(flowers, size=4).digest(), PictureFolder(flowers, labels=list("ababa")).digest()}
    os.rename(flowers / "rose" / "b.png", flowers / "rose" / "bb.png")
    digests.add(PictureFolder(flowers).digest())
    assert len(digests) == 4


def test_a_digest_is_that_of_a_copy_and_no_time_counts(flowers, tmp_path):
    first = PictureFolder(flowers).digest()
    os.utime(flowers / "rose" / "a.png", ns=(1, 1))
    assert PictureFolder(flowers).digest() == first
    assert PictureFolder(shutil.copytree(flowers, tmp_path / "copy")).digest() == first


@pytest.mark.parametrize(("place", "seen"), [(0, True), (63, True), (64, False), (135, False), (136, True), (199, True)])
def test_a_digest_reads_both_ends_of_every_file(tmp_path, monkeypatch, place, seen):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.zeros((3, 8)))  # 128 bytes of header, 192 of values
    folder = PictureFolder(tmp_path)

    def digest():
        folder._digest = None
        return folder.digest()

    first = digest()
    file = tmp_path / "b.npy"
    content = bytearray(file.read_bytes()[:200])
    file.write_bytes(content)
    monkeypatch.setattr("undrift.codecs.folder.HASHED", 4 * 64)  # 64 bytes at either end of each of two files
    short = digest()
    assert short != first
    content[place] ^= 1
    file.write_bytes(content)
    assert (digest() != short) == seen
    cut = digest()
    file.write_bytes(content[:100] + bytes(7) + content[100:])  # between the ends
    assert digest() != cut
    file.unlink()
    with pytest.raises(DataError, match=r"b\.npy cannot be read"):
        digest()


def test_a_single_picture_is_enough_where_that_is_said(tmp_path):
    save(tmp_path / "a.png", gray(4, 4))
    assert len(PictureFolder(tmp_path, least=1)) == 1


def test_headers_say_the_same_as_the_pixels(tmp_path):
    save(tmp_path / "a.png", gray(3, 7, 4))
    seen = header(Path(tmp_path / "a.png"))
    assert (seen.height, seen.width, seen.channels, seen.alpha, seen.dtype) == (3, 7, 3, True, "uint8")


def test_names_are_kept_in_their_bytes():
    names = ["a", "", "blüte/é.png", "x" * 300, os.fsdecode(b"caf\xe9.png")]
    assert list(Names(names)) == names
