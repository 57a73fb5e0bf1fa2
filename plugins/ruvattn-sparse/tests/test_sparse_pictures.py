"""The pictures: they show the pairs that there are, in characters and in pixels."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import ruvattn
from ruvattn.errors import DimensionMismatchError, InvalidInputError

pytest.importorskip("ruvattn_sparse", reason="pip install ./plugins/ruvattn-sparse first")
from ruvattn_sparse import BigBird, Dense, Dilated, PatternMask, Streaming, Windowed

RANDOM = np.random.default_rng(0).random((90, 120)) < 0.2


def body(mask, *lengths, **options):
    return mask.picture(*lengths, **options).split("\n")[:-1]


# --- characters ------------------------------------------------------------------------------------------------------


def test_a_small_mask_is_drawn_in_half_blocks():
    assert Windowed(1).picture(5, 5) == "██▄  \n ▀██▄\n   ▀▀\nWindowed(1): 5 queries × 5 keys, 13 pairs, 52.00%"


def test_half_blocks_show_every_pair():
    rows = RANDOM[:31, :40]
    halves = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}
    lines = body(Dense(rows), width=40, height=16)
    seen = np.array([[halves[character] for character in line] for line in lines]).transpose(0, 2, 1).reshape(-1, 40)
    assert np.array_equal(seen[:31], rows)
    assert not seen[31:].any()


def test_braille_shows_every_pair():
    lines = body(Dense(RANDOM), width=60, height=23)
    assert [len(line) for line in lines] == [60] * 23
    order = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]  # the dots 1 to 8 of Unicode
    seen = np.zeros((92, 120), bool)
    for y, line in enumerate(lines):
        for x, character in enumerate(line):
            for dot, (row, column) in enumerate(order):
                seen[4 * y + row, 2 * x + column] = (ord(character) - 0x2800) >> dot & 1
    assert np.array_equal(seen[:90], RANDOM)
    assert not seen[90:].any()


def test_a_large_mask_is_drawn_in_shades_of_its_density():
    blocks = np.zeros((400, 400), bool)
    blocks[:200, 200:] = True
    blocks[200:, :200] = np.arange(200) % 4 == 0
    blocks[200:280, 200:] = np.arange(200) % 2 == 0
    blocks[280:, 200:] = np.arange(200) % 10 != 0
    assert body(Dense(blocks), width=20, height=20) == [" " * 10 + "█" * 10] * 5 + ["░" * 10 + "▒" * 10] * 2 + ["░" * 10 + "▓" * 10] * 3


def test_a_single_pair_among_many_is_seen_and_one_that_is_missing_too():
    alone = np.zeros((1000, 1000), bool)
    alone[700, 250] = True
    lines = body(Dense(alone), width=40, height=20)
    assert [(y, x) for y, line in enumerate(lines) for x, character in enumerate(line) if character != " "] == [(14, 10)]
    lines = body(Dense(~alone), width=40, height=20)
    assert [(y, x) for y, line in enumerate(lines) for x, character in enumerate(line) if character != "█"] == [(14, 10)]


@pytest.mark.parametrize("lengths", [(1, 1), (3, 1000), (1000, 3), (5000, 5000), (100, 72), (72, 145)])
def test_a_picture_keeps_to_its_size(lengths):
    lines = body(Windowed(5), *lengths, width=72, height=30)
    assert 1 <= len(lines) <= 30
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines[0]) <= 72


def test_the_last_line_says_what_is_seen():
    assert Windowed(1).picture(4, 4).split("\n")[-1] == "Windowed(1): 4 queries × 4 keys, 10 pairs, 62.50%"
    assert Dilated(1, [1, 2]).picture(4, 4, head=1).endswith("8 pairs, 50.00%, head 1")
    assert Dense(RANDOM[:6].reshape(2, 1, 3, 120)).picture(batch=1).endswith("batch entry 1")


def test_heads_and_batch_entries_are_drawn_one_by_one():
    assert body(Dilated(1, [1, 2]), 6, 6, head=1) == body(Dilated(1, 2), 6, 6)
    entries = np.random.default_rng(0).random((2, 1, 6, 6)) < 0.5
    assert body(Dense(entries), batch=1) == body(Dense(entries[1, 0]))


@pytest.mark.parametrize("lengths", [(0, 0), (0, 5), (5, 0), (500, 0), (0, 500)])
def test_a_mask_without_queries_or_keys_is_no_more_than_its_text(lengths):
    picture = Windowed(1).picture(*lengths)
    assert picture.strip().endswith(f"{lengths[0]} queries × {lengths[1]} keys, 0 pairs, 0.00%")
    assert not set("█▀▄░▒▓") & set(picture)


def test_any_pattern_can_be_drawn():
    assert body(PatternMask(ruvattn.Causal() & Windowed(2)), 8, 8) == body(Streaming(0, 3), 8, 8)


@pytest.mark.parametrize("mask", [Windowed(256, 2), BigBird(length=32_768)], ids=repr)
def test_a_long_mask_is_drawn_without_an_array_of_its_pairs(mask):
    length = 32_768
    tracemalloc.start()
    lines = body(mask, length, length, width=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(lines[y][2 * y] != " " for y in range(32))
    assert peak < length**2 // 64


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: Windowed(1).picture(), InvalidInputError, "lq and lk must both be given for a Windowed"),
    (lambda: Windowed(1).picture(4, 4, width=0), InvalidInputError, "width must be an int from 1, got 0"),
    (lambda: Windowed(1).picture(4, 4, height=-1), InvalidInputError, "height must be an int from 1, got -1"),
    (lambda: Dense(RANDOM).picture(9, 9), DimensionMismatchError, r"mask must broadcast to"),
    (lambda: Dilated(1, [1, 2]).picture(9, 9, head=2), DimensionMismatchError, "head must be less than 2"),
])  # fmt: skip
def test_a_bad_question_is_answered_with_the_way_out(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- pixels ----------------------------------------------------------------------------------------------------------


def pixels(path):
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).round().astype(int)


def test_a_file_shows_every_pair_of_a_small_mask(tmp_path):
    path = Dense(RANDOM).save_picture(tmp_path / "mask.png", size=250)
    image = pixels(path)
    assert image.shape == (180, 240, 3)  # twice as large, for that is a whole number
    ink = (image != 255).any(-1)
    assert np.array_equal(ink, RANDOM.repeat(2, 0).repeat(2, 1))
    assert set(map(tuple, image[ink])) == {(8, 48, 107)}


def test_a_file_is_the_darker_the_more_pairs_of_a_pixel_attend(tmp_path):
    mask = np.zeros((400, 400), bool)
    mask[:, 100:] = np.arange(300) < [[n % 2 * 300] for n in range(400)]
    mask[:, 200:] = np.arange(200) % 2 == 0
    mask[:, 300:] = True
    mask[0, 0] = True
    image = pixels(Dense(mask).save_picture(tmp_path / "mask.png", size=4)).sum(-1)
    assert image[1, 0] == 3 * 255 > image[0, 0] > image[1, 1]
    assert image[1, 1] == image[1, 2] > image[1, 3]


def test_a_file_keeps_the_proportions_of_the_mask(tmp_path):
    image = pixels(Windowed(9).save_picture(tmp_path / "mask.png", 1000, 4000, size=200))
    assert image.shape[:2] == (50, 200)


def test_a_file_is_replaced_only_when_the_new_one_is_complete(tmp_path, monkeypatch):
    import matplotlib.image

    path = Windowed(1).save_picture(str(tmp_path / "mask.png"), 9, 9)
    before = path.read_bytes()

    def fail(file, *_, **__):
        file.write(b"half a picture")
        raise OSError("the disk is full")

    monkeypatch.setattr(matplotlib.image, "imsave", fail)
    with pytest.raises(OSError, match="the disk is full"):
        Windowed(2).save_picture(path, 9, 9)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["mask.png"]


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Windowed(1).save_picture(tmp_path / "nowhere" / "mask.png", 9, 9)


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.image", None)
    with pytest.raises(ImportError, match=r"pip install 'ruvattn-sparse\[pictures\]'"):
        Windowed(1).save_picture(tmp_path / "mask.png", 9, 9)


def test_a_mask_without_queries_has_no_picture(tmp_path):
    with pytest.raises(InvalidInputError, match="lq must be an int from 1, got 0"):
        Windowed(1).save_picture(tmp_path / "mask.png", 0, 9)


def test_matplotlib_and_scipy_sparse_are_loaded_by_those_who_need_them_only():
    code = "import sys, ruvattn_sparse as s; s.Windowed(3).picture(99, 99); print({'matplotlib', 'scipy.sparse'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
