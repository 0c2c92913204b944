"""Every kind of picture file becomes the documented pixels, or a named error; nothing crashes (B22, B24–B28)."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin

from danlu.core.errors import InputError
from danlu.data import decode as module
from danlu.data.decode import change_channels, decode, fit, inspect, prepare, resized_size
from tests.data.pictures import encoded, jpeg, noise


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "channels"), [("WEBP", 3), *((form, c) for form in ("PNG", "BMP", "TIFF", "PPM") for c in (1, 3))]
)
def test_lossless_formats_keep_every_pixel(form: str, channels: int) -> None:
    pixels = noise(7, 5, channels)
    options = {"lossless": True} if form == "WEBP" else {}
    found = decode(encoded(pixels, form, **options), None)
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels)


def test_truncated_jpeg_is_found_by_decoding(tmp_path: Path) -> None:
    """B22: the header check of Pillow passes a picture whose end is missing."""
    path = tmp_path / "cut.jpg"
    path.write_bytes(jpeg(side=64)[:-700])
    with Image.open(path) as image:
        image.verify()
    with pytest.raises(InputError, match=r"cut\.jpg: is damaged .*truncated"):
        decode(path, 3)


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_any_truncated_file_is_an_input_error(form: str) -> None:
    content = encoded(noise(32, 32), form)
    with pytest.raises(InputError):
        decode(content[: len(content) // 2], 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"  <!DOCTYPE html><html><body>404</body></html>", "HTML page"),
        (b"<html>", "HTML page"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"just text", "no picture of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture of a known format"),
    ],
)
def test_what_is_no_picture_is_named(content: bytes, reason: str) -> None:
    """B24. PostScript is among them: Pillow would start another program for it."""
    with pytest.raises(InputError, match=reason):
        decode(content, 3, name="a.jpg")


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    made = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + made


@pytest.mark.parametrize("side", [8_945, 60_000])
def test_too_many_pixels_are_refused_before_decoding(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """B25: the first size lies below Pillow's own limits, the second above."""
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"more .*than the allowed 80,000,000"):
        decode(png_claiming(side, side), 3)


def test_a_real_bomb_is_refused() -> None:
    """B25: 100 million pixels in a few kilobytes."""
    bomb = saved(Image.new("1", (10_000, 10_000)), "PNG")
    assert len(bomb) < 20_000
    with pytest.raises(InputError, match=r"more .*than the allowed"):
        inspect(bomb)


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(9, 9)))
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="at most 10 are read"):
        decode(tmp_path / "a.png", 3)


# B26: one row a kind of pixel: how the file is made, what its pixels become.


def grey_values(content: bytes) -> list[int]:
    facts, pixels = inspect(content)
    assert facts.channels == pixels.shape[2] == 1
    return pixels.ravel().tolist()


def test_sixteen_bit_grey_uses_the_full_range() -> None:
    values = np.array([[0, 128, 129, 257, 32_768, 65_535]], np.uint16)
    expected = [int(v / 65_535 * 255 + 0.5) for v in values[0]]
    assert expected == [0, 0, 1, 1, 128, 255]
    assert grey_values(saved(Image.fromarray(values), "PNG")) == expected
    assert grey_values(saved(Image.fromarray(values), "TIFF")) == expected


def test_integer_grey_is_read_like_sixteen_bits_or_refused() -> None:
    assert grey_values(saved(Image.fromarray(np.array([[0, 257, 65_535]], np.int32)), "TIFF")) == [0, 1, 255]
    for bad in (-1, 65_536):
        with pytest.raises(InputError, match=r"0…65535 are read"):
            decode(saved(Image.fromarray(np.array([[bad, 5]], np.int32)), "TIFF"), 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 0.4, 99.5, 255.0], [0, 0, 100, 255])],
)
def test_float_grey_in_either_range(values: list[float], expected: list[int]) -> None:
    assert grey_values(saved(Image.fromarray(np.array([values], np.float32)), "TIFF")) == expected


@pytest.mark.parametrize("bad", [-0.1, 255.5, np.nan, np.inf])
def test_float_grey_of_no_known_range_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match=r"float values|NaN"):
        decode(saved(Image.fromarray(np.array([[bad, 0.5]], np.float32)), "TIFF"), 1)


def test_one_bit() -> None:
    image = Image.fromarray(np.array([[0, 255, 255, 0]], np.uint8)).convert("1")
    assert grey_values(saved(image, "PNG")) == [0, 255, 255, 0]


def test_palette_and_its_transparency() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert decode(saved(image, "PNG"), 3).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    assert decode(saved(image, "PNG", transparency=1), 3).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    partly = decode(saved(image, "PNG", transparency=bytes([255, 0, 128])), 3)[0, 2]
    assert np.abs(partly.astype(int) - (np.array([70, 80, 90]) * 128 + 255 * 127) / 255).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_blended_over_white(mode: str) -> None:
    colours = {"RGBA": [(100, 50, 0, 255), (100, 50, 0, 0), (100, 50, 0, 51)], "LA": [(100, 255), (100, 0), (100, 51)]}
    image = Image.new(mode, (3, 1))
    for x, value in enumerate(colours[mode]):
        image.putpixel((x, 0), value)
    found = decode(saved(image, "PNG"), None)[0].astype(int)
    expected = [[value * a / 255 + 255 * (255 - a) / 255 for value in rest] for *rest, a in colours[mode]]
    assert found.shape == (3, len(mode) - 1)
    assert np.abs(found - np.array(expected)).max() <= 1


def test_transparent_colour_of_rgb_and_grey() -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    assert decode(saved(rgb, "PNG", transparency=(1, 2, 3)), 3)[0].tolist() == [[255, 255, 255], [9, 9, 9]]
    grey = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert grey_values(saved(grey, "PNG", transparency=7)) == [255, 8]


def test_cmyk_and_ycbcr_and_hsv() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red ink
    for form in ("JPEG", "TIFF"):
        red = decode(saved(cmyk, form), 3)[4, 4].astype(int)
        assert red[0] > 240
        assert red[1:].max() < 20
    ycbcr = Image.new("RGB", (8, 8), (200, 30, 40)).convert("YCbCr")
    assert np.abs(decode(saved(ycbcr, "TIFF"), 3)[0, 0].astype(int) - [200, 30, 40]).max() <= 3


def test_lab() -> None:
    pixel = decode(saved(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF"), 3)[0, 0]
    assert pixel.min() > 250, "L* = 100 is white"


def test_deep_colour_keeps_the_high_byte() -> None:
    raw = np.array([[[0x1234, 0xFF00, 0x00FF]]], ">u2").tobytes()
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + raw)), (b"IEND", b"")]
    made = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    assert decode(b"\x89PNG\r\n\x1a\n" + made, 3).tolist() == [[[0x12, 0xFF, 0x00]]]


def test_animations_give_the_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    facts, pixels = inspect(content)
    assert facts.frames == 2
    assert pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, form: str) -> None:
    """B27: the file is stored turned; decoding turns it upright. Rows are what EXIF says of row 0 and column 0."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)
    upright[:8, 16:] = (0, 255, 0)
    upright[8:, :8] = (0, 0, 255)
    store = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"exif": exif}
    if form in ("JPEG", "WEBP"):
        options["quality"] = 100
    if form == "TIFF":
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info[0x0112] = orientation
        options = {"tiffinfo": info}
    found = decode(saved(Image.fromarray(np.ascontiguousarray(store(upright))), form, **options), 3)
    assert found.shape == upright.shape
    assert np.abs(found[4::8, 4::8].astype(int) - upright[4::8, 4::8]).max() < 40


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_lose_the_picture() -> None:
    content = jpeg()
    broken = content[:2] + b"\xff\xe1" + struct.pack(">H", 16) + b"Exif\0\0MM\0*\xff\xff\xff\xff" + content[2:]
    assert decode(broken, 3).shape == (24, 24, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 10_000), (10_000, 1), (1, 60_000), (3, 5), (500, 2)])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (32, 32), (28, 7), (224, 224)])
def test_extreme_shapes(height: int, width: int, size: tuple[int, int]) -> None:
    """B28: nothing crashes, and memory stays bounded."""
    pixels = np.full((height, width, 3), 77, np.uint8)
    found = prepare(encoded(pixels), 3, size)
    assert found.shape == (*size, 3)
    assert found.flags.c_contiguous
    assert (found == 77).all()


def test_long_pictures_take_no_more_memory_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """B28: 1 × 60000 would become 224 × 13 million pixels if all of it were resized."""
    made: list[int] = []
    resize = Image.Image.resize

    def counted(self: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        made.append(size[0] * size[1])
        assert made[-1] < 10 * 224 * 224, "too large"
        return resize(self, size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", counted)
    for shape in ((1, 60_000, 3), (60_000, 1, 3), (3, 9_000, 1)):
        fit(np.zeros(shape, np.uint8), (224, 224))
    assert len(made) == 3


def test_the_middle_of_a_long_picture_is_kept() -> None:
    pixels = np.zeros((4, 4001, 1), np.uint8)
    pixels[:, 1999:2002] = 255
    found = fit(pixels, (4, 5))
    assert found[0, :, 0].tolist() == [0, 255, 255, 255, 0]


def test_fit_is_the_identity_at_the_right_size() -> None:
    pixels = noise(12, 9)
    assert fit(pixels, (12, 9)) is pixels


def test_fit_is_resize_of_the_shorter_side_and_centre_crop() -> None:
    pixels = noise(40, 60)
    resized = np.asarray(Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(fit(pixels, (20, 20)), resized[:, 5:25])
    assert resized_size(40, 60, (20, 20)) == (20, 30)
    assert resized_size(60, 40, (20, 20)) == (30, 20)
    assert resized_size(3, 2, (1, 1)) == (2, 1), "1.5 is rounded up"


@settings(max_examples=200, deadline=None)
@given(*[st.integers(1, 3000)] * 2, *[st.integers(1, 300)] * 2)
def test_resized_size_covers_the_target(height: int, width: int, h: int, w: int) -> None:
    new_h, new_w = resized_size(height, width, (h, w))
    assert new_h >= h
    assert new_w >= w
    assert new_h == h or new_w == w


def test_luma_is_pillows() -> None:
    pixels = noise(50, 50)
    pillow = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(change_channels(pixels, 1)[..., 0], pillow)
    assert np.array_equal(change_channels(pixels[..., :1], 3)[..., 2], pixels[..., 0])
    with pytest.raises(ValueError, match="channels are 1 or 3"):
        change_channels(pixels, 4)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_but_input_error(data: st.DataObject) -> None:
    """A flipped byte may decode (B23) or fail; it must not crash."""
    form = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    content = bytearray(encoded(noise(9, 9), form))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 200)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        with contextlib.suppress(InputError):
            assert decode(damaged, 3).ndim == 3


def grey_tiff(values: np.ndarray, photometric: int) -> bytes:
    """Return 16-bit grey [H, W] as an uncompressed TIFF file of one strip."""
    height, width = values.shape
    data = values.astype("<u2").tobytes()
    fields = [(256, width), (257, height), (258, 16), (259, 1), (262, photometric), (273, 0), (277, 1), (278, height)]
    fields.append((279, len(data)))
    begin = 8 + 2 + 12 * len(fields) + 4
    rows = [struct.pack("<HHII", tag, 4, 1, begin if tag == 273 else value) for tag, value in fields]
    head = b"II*\0" + struct.pack("<IH", 8, len(fields))
    return head + b"".join(rows) + struct.pack("<I", 0) + data


def test_a_16_bit_tiff_whose_0_is_white_is_no_negative() -> None:
    values = (np.arange(24).reshape(4, 6) * 2700).astype(np.uint16)
    black, white = (inspect(grey_tiff(values, photometric)) for photometric in (1, 0))
    assert black[0].mode == white[0].mode == "I;16"
    assert np.array_equal(black[1][..., 0], np.floor(values * (255 / 65535) + 0.5))
    assert np.array_equal(white[1], 255 - black[1])


def test_what_a_decoder_raises_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The AVIF decoder reports damage by a RuntimeError."""

    def fail(image: object) -> None:
        raise RuntimeError("Failed to decode frame 0: Decoding of color planes failed")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(InputError, match=r"is damaged .*color planes"):
        decode(encoded(noise(8, 8)), 3)
