"""Bytes <-> uint8 pixels (H, W, 3) <-> float32 (N, 3, H, W) in [0, 1]: the image gate.

Bytes come from strangers: the size is read from the header before anything is decoded, and whatever
Pillow makes of broken input becomes one of our errors.
"""

import base64
import io
import warnings
from typing import NoReturn

import numpy as np
from PIL import Image, ImageOps

from dra_serve.attacks.norms import get_norm
from dra_serve.errors import BadRequest, MalformedRequest, TooLarge, UnsupportedFormat, UserError

MAX_BYTES = 8 * 2**20
MAX_PIXELS = 16 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP")

# Our own limit is far below Pillow's, which only warns; as an error it says the same thing sooner.
# Set once, not in a catch_warnings block: that one is not thread-safe.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode(data: bytes, *, field: str = "image") -> np.ndarray:
    """Return the pixels of a PNG, JPEG or WebP file, uint8 (H, W, 3), RGB, upright.

    EXIF orientation is applied; grey, palette and CMYK images become RGB; an alpha channel is dropped
    if it is opaque throughout. Raises, naming `field`: MalformedRequest for no bytes, TooLarge above
    8 MiB or 16 Mi pixels (before decoding), UnsupportedFormat for any other format, an animation or
    16-bit grey, UserError for broken files and for transparent pixels (their hidden colour is not
    what anyone sees, and no background is the right one).
    """
    if not data:
        raise MalformedRequest(f"{field}: no bytes; send a PNG, JPEG or WebP image", field=field)
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{field}: {len(data):,} bytes; at most {MAX_BYTES:,}", field=field)
    image = _open(data, field)
    _refuse_by_header(image, field)
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), field)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error, ...
        raise UserError(f"{field}: the {image.format} file is broken or cut short", field=field) from error


def _open(data: bytes, field: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        _refuse_pixels(f"more than {MAX_PIXELS:,}", field)
    except Exception as error:  # UnidentifiedImageError, and what hostile headers raise instead
        raise UnsupportedFormat(
            f"{field}: no image we read; allowed: PNG, JPEG, WebP", field=field
        ) from error


def _refuse_by_header(image: Image.Image, field: str) -> None:
    """Raise for what the header alone shows to be too much, or of a kind we would misread."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        _refuse_pixels(f"{width:,} x {height:,}", field)
    # MPO is a photo with previews behind it, as many telephones write: its first picture is the picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise UnsupportedFormat(f"{field}: an animation; send a single frame", field=field)
    if image.mode.startswith(("I", "F")):  # Pillow would saturate: 30000 becomes 255
        raise UnsupportedFormat(f"{field}: 16-bit grey pixels; send 8 bits a channel", field=field)


def _refuse_pixels(given: str, field: str) -> NoReturn:
    raise TooLarge(f"{field}: {given} pixels; at most {MAX_PIXELS:,} in all", field=field)


def _to_rgb(image: Image.Image, field: str) -> np.ndarray:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise UserError(
                f"{field}: has transparent pixels; flatten it onto a background first", field=field
            )
    return np.array(image.convert("RGB"))


def fit(
    pixels: np.ndarray, input_shape: tuple[int, int, int], *, resize: bool, field: str = "image"
) -> np.ndarray:
    """Return pixels (H, W, 3) in the model's height, width and channels: (H, W, C).

    input_shape: (C, H, W), C = 3 or 1; for 1 channel the luminance (ITU-R 601), exact for grey pixels.
    With resize, the largest centred part of the right proportions is scaled by
    Pillow's bicubic filter (antialiased when shrinking); without it, another size raises BadRequest
    naming both.
    """
    channels, height, width = input_shape
    if pixels.shape[:2] == (height, width):
        return _with_channels(pixels, channels)
    if not resize:
        given = f"{pixels.shape[1]} x {pixels.shape[0]} pixels (width x height)"
        raise BadRequest(field, given=given, allowed=f"{width} x {height}, or any size with resize=true")
    scaled = ImageOps.fit(Image.fromarray(pixels), (width, height), method=Image.Resampling.BICUBIC)
    return _with_channels(np.array(scaled), channels)


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    if channels == 3:
        return pixels
    if channels == 1:
        return np.array(Image.fromarray(pixels).convert("L"))[:, :, None]
    raise BadRequest("model", given=f"{channels} input channels", allowed="models of RGB or grey images")


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W, C) or (N, H, W, C) as float32 (N, C, H, W) in [0, 1]; k becomes k/255."""
    batch = pixels[None] if pixels.ndim == 3 else pixels
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


def to_pixels(x: np.ndarray) -> np.ndarray:
    """Return float (N, C, H, W) in [0, 1] as uint8 (N, H, W, C), rounded to the nearest k/255."""
    levels: np.ndarray = np.rint(x * 255).astype(np.uint8)
    return levels.transpose(0, 2, 3, 1)


def round_into_ball(x_adv: np.ndarray, x: np.ndarray, eps: float, norm: str) -> np.ndarray:
    """Return x_adv with every value a k/255, as an image file would store it; float32 (N, C, H, W).

    linf: the nearest k/255 within eps of x, so that rounding does not leave the ball; a value of x that
    has none (off the 8-bit grid, eps below 1/510) takes the nearest of all. l2: plain rounding, which
    may leave the ball by up to sqrt(C H W) / 510; measure the result if that matters.
    """
    get_norm(norm)
    q = np.rint(255 * x_adv.astype(np.float64))
    if norm == "linf":
        centre, radius = 255 * x.astype(np.float64), 255 * eps
        slack = 1e-4  # of a level: float32 moves k/255 and 8/255 by at most 2e-5 of one
        low, high = np.ceil(centre - radius - slack), np.floor(centre + radius + slack)
        q = np.where(low <= high, np.clip(q, low, high), np.rint(centre))
    return np.clip(q, 0, 255).astype(np.float32) / np.float32(255)


def encode_png(pixels: np.ndarray) -> bytes:
    """Return uint8 (H, W, 3) or (H, W, 1) as a PNG file, lossless and without metadata."""
    buffer = io.BytesIO()
    grey = pixels.shape[2] == 1
    Image.fromarray(pixels[:, :, 0] if grey else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """Return PNG bytes as a `data:` URI, for JSON and HTML."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
