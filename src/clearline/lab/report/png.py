"""A small PNG writer: one byte a pixel through a palette. Enough for heat maps, without an imaging library."""

import base64
import struct
import zlib

import numpy as np


def png(pixels: np.ndarray, palette: np.ndarray) -> bytes:
    """pixels uint8 [height, width] as indices of palette uint8 [n <= 256, 3]."""
    height, width = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], 1).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", head), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def ramp(*stops: tuple[int, int, int], count: int = 256) -> np.ndarray:
    """uint8 [count, 3] through colours at equal distances."""
    at = np.linspace(0, 1, len(stops))
    where = np.linspace(0, 1, count)
    return np.stack([np.interp(where, at, [stop[i] for stop in stops]) for i in range(3)], 1).round().astype(np.uint8)


def wheel(count: int) -> np.ndarray:
    """uint8 [count, 3] of `count` colours round the hues, dark and light in turn: neighbours differ, equal ones are equal."""
    i = np.arange(count)
    hue, light = (i * 0.61803398875) % 1.0, np.array([0.55, 0.8, 0.68])[i % 3]
    rgb = light[:, None] * (0.35 + 0.65 * np.clip(np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1))
    return (rgb * 255).round().astype(np.uint8)
