"""The image gate: what strangers send, and what leaves."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from dra_serve import images
from dra_serve.attacks.norms import NORMS
from dra_serve.errors import BadRequest, MalformedRequest, TooLarge, UnsupportedFormat, UserError


def picture(height=4, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, format: str = "PNG", **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9))
        + chunk(b"IEND", b"")
    )


def test_png_comes_back_as_it_was():
    pixels = picture()
    np.testing.assert_array_equal(images.decode(images.encode_png(pixels)), pixels)
    np.testing.assert_array_equal(images.decode(encoded(pixels, "WEBP", lossless=True)), pixels)


def test_jpeg_comes_back_nearly():
    smooth = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    assert np.abs(images.decode(encoded(smooth, "JPEG")).astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_other_colour_modes_become_rgb(mode):
    red = Image.new("RGB", (5, 4), (250, 10, 10)).convert(mode)
    format = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    pixels = images.decode(encoded(red, format))
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8
    expected = np.array(red.convert("RGB"))
    assert np.abs(pixels.astype(int) - expected).max() <= 3


def test_exif_orientation_is_applied():
    pixels = picture(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    upright = images.decode(encoded(pixels, "PNG", exif=exif))
    np.testing.assert_array_equal(upright, np.rot90(pixels, -1))


def test_opaque_alpha_is_dropped_and_transparency_refused():
    pixels = picture()
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    np.testing.assert_array_equal(images.decode(encoded(np.concatenate([pixels, alpha], 2))), pixels)
    alpha[0, 0] = 254
    with pytest.raises(UserError, match="image: has transparent pixels"):
        images.decode(encoded(np.concatenate([pixels, alpha], 2)))


def test_transparent_palette_is_refused():
    palette = Image.fromarray(picture()).convert("P")
    used = palette.getpixel((0, 0))
    with pytest.raises(UserError, match="transparent"):
        images.decode(encoded(palette, transparency=used))


@pytest.mark.parametrize(
    "data", [b"hello, I am a .png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n"]
)
def test_text_and_stumps_are_no_image(data):
    with pytest.raises(UnsupportedFormat) as error:
        images.decode(data, field="image[1]")
    assert error.value.field == "image[1]"
    assert error.value.detail == "image[1]: no image we read; allowed: PNG, JPEG, WebP"


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(format):
    with pytest.raises(UnsupportedFormat):
        images.decode(encoded(picture(), format))


def test_no_bytes():
    with pytest.raises(MalformedRequest, match="image: no bytes"):
        images.decode(b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_file_cut_short_is_refused(format):
    whole = encoded(picture(64, 64), format)
    with pytest.raises(UserError, match="image: ") as error:
        images.decode(whole[: len(whole) // 2])
    assert error.value.status in (415, 422)


def test_flipped_bytes_never_escape_as_another_error():
    rng = np.random.default_rng(0)
    outcomes = set()
    for format in images.FORMATS:
        whole = np.frombuffer(encoded(picture(24, 24), format), np.uint8)
        for _ in range(150):
            broken = whole.copy()
            broken[rng.integers(0, len(broken), 4)] = rng.integers(0, 256, 4)
            try:
                outcomes.add(images.decode(broken.tobytes()).shape[2])
            except UserError as error:
                outcomes.add(error.field)
    assert outcomes == {3, "image"}


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(format):
    frames = [Image.fromarray(picture(seed=k)) for k in range(3)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedFormat, match="an animation"):
        images.decode(data)


def test_a_photo_with_a_preview_behind_it_is_no_animation():
    photo, preview = Image.fromarray(picture(16, 16)), Image.fromarray(picture(8, 8))
    data = encoded(photo, "MPO", save_all=True, append_images=[preview])
    assert images.decode(data).shape == (16, 16, 3)


def test_sixteen_bit_grey_is_refused():
    deep = Image.fromarray(np.full((4, 4), 30000, np.uint16))
    with pytest.raises(UnsupportedFormat, match="16-bit"):
        images.decode(encoded(deep))


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")  # as in the service
@pytest.mark.parametrize(
    ("width", "height"), [(13_000, 13_000), (10_000, 9_000), (4097, 4096), (60_000, 60_000)]
)
def test_too_many_pixels_are_refused_by_the_header(width, height):
    begin = time.perf_counter()
    with pytest.raises(TooLarge, match="pixels; at most 16,777,216") as error:
        images.decode(png_header(width, height))
    assert error.value.field == "image"
    assert time.perf_counter() - begin < 0.5


def test_too_many_bytes_are_refused():
    with pytest.raises(TooLarge, match="8,388,609 bytes; at most 8,388,608"):
        images.decode(b"\0" * (images.MAX_BYTES + 1))


def test_an_inflated_text_chunk_is_refused():
    body = b"Comment\0\0" + zlib.compress(b"\0" * 70_000_000)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    data = images.encode_png(picture())
    with pytest.raises(UserError):
        images.decode(data[:33] + chunk + data[33:])


def test_a_wrong_size_names_both():
    with pytest.raises(BadRequest) as error:
        images.fit(picture(4, 6), (3, 32, 30), resize=False)
    assert error.value.detail == (
        "image: got 6 x 4 pixels (width x height); allowed: 30 x 32, or any size with resize=true"
    )


def test_the_right_size_is_left_alone():
    pixels = picture()
    assert images.fit(pixels, (3, 4, 6), resize=True) is pixels


def test_resizing_keeps_proportions_by_cropping_the_centre():
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, 12:28] = 255  # the central square, and what the filter sees beside it
    np.testing.assert_array_equal(images.fit(pixels, (3, 5, 5), resize=True), np.full((5, 5, 3), 255))


def test_floats_and_pixels_are_inverse():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    x = images.to_float(pixels)
    assert x.shape == (1, 3, 16, 16)
    assert x.dtype == np.float32
    assert x.min() == 0
    assert x.max() == 1
    np.testing.assert_array_equal(images.to_pixels(x), pixels)
    np.testing.assert_array_equal(images.to_float(pixels[0]), x)


@example(0, 1.0, 0.999522091435701)  # a radius just short of a level
@given(st.integers(0, 255), st.floats(0, 1, width=32), st.one_of(st.integers(0, 255), st.floats(0, 255)))
def test_rounding_stays_in_the_linf_ball(level, position, levels):
    """From an 8-bit x, wherever x_adv lies in the ball and whatever the radius."""
    eps = levels / 255
    x = np.full((1, 1, 1, 1), level, np.float32) / np.float32(255)
    x_adv = np.clip(x + np.float32(eps * (2 * position - 1)), 0, 1)
    rounded = images.round_into_ball(x_adv, x, eps, "linf")
    assert rounded.dtype == np.float32
    assert abs(rounded - x).max() <= eps + 1e-5 * eps + 1e-6
    k = rounded.astype(np.float64) * 255
    assert abs(k - np.rint(k)).max() < 1e-4
    assert abs(rounded - x_adv).max() <= 1 / 255 + 1e-6


def test_rounding_in_linf_takes_the_nearest_level_inside():
    x = np.full((1, 3, 1, 1), 100, np.float32) / np.float32(255)
    x_adv = x + np.array([7.4, 8.0000005, -7.6], np.float32).reshape(1, 3, 1, 1) / 255
    levels = images.to_pixels(images.round_into_ball(x_adv, x, 8 / 255, "linf"))
    assert levels.ravel().tolist() == [107, 108, 92]
    levels = images.to_pixels(images.round_into_ball(x_adv, x, 7.5 / 255, "linf"))
    assert levels.ravel().tolist() == [107, 107, 93]


def test_rounding_in_l2_is_to_the_nearest_and_leaves_by_little():
    rng = np.random.default_rng(0)
    x = images.to_float(picture(8, 8))
    delta = NORMS["l2"].sample((3, 8, 8), rng)[None] * np.float32(0.25)
    x_adv = np.clip(x + delta, 0, 1)
    rounded = images.round_into_ball(x_adv, x, 0.25, "l2")
    np.testing.assert_array_equal(images.to_pixels(rounded), images.to_pixels(x_adv))
    assert NORMS["l2"].size(rounded - x)[0] <= 0.25 + np.sqrt(3 * 8 * 8) / 510


def test_rounded_images_survive_png():
    x = images.to_float(picture(8, 8))
    x_adv = np.clip(x + np.float32(0.01), 0, 1)
    rounded = images.round_into_ball(x_adv, x, 8 / 255, "linf")
    sent = images.encode_png(images.to_pixels(rounded)[0])
    np.testing.assert_array_equal(images.to_float(images.decode(sent)), rounded)


def test_data_uri():
    assert images.data_uri(b"\x89PNG") == "data:image/png;base64,iVBORw=="
