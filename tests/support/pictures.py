"""Pictures as they lie about on real disks: of every kind that Pillow opens, and of every kind that it cannot."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from sspsam.shapes import draw_scene


def write_bad_pictures(folder: Path) -> tuple[set[str], set[str]]:
    """Write odd but good pictures and bad ones; returns the names of both."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = draw_scene(3, (60, 90)).pixels
    picture = Image.fromarray(pixels)
    good = {
        "sixteen.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "cmyk.jpg": picture.convert("CMYK"),
        "one.png": picture.crop((0, 0, 1, 1)),
        "palette.gif": picture.convert("P"),
        "alpha.png": picture.convert("RGBA"),
        "x" * 246 + ".png": picture,
        "🦊 fox.png": picture,
        "two\nlines.png": picture,
        "-rf.png": picture,
    }
    for name, image in good.items():
        image.save(folder / name)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(folder / f"turned{orientation}.jpg", exif=exif)
        good[f"turned{orientation}.jpg"] = picture
    picture.save(folder / "really-a-png.jpg", format="PNG")
    picture.save(folder / "no-ending", format="JPEG")
    (folder / "whole.png").write_bytes((folder / "alpha.png").read_bytes())

    bad = {
        "empty.jpg": b"",
        "text.png": b"not a picture at all",
        "truncated.png": (folder / "alpha.png").read_bytes()[:200],
        "truncated.jpg": (folder / "turned1.jpg").read_bytes()[:400],
        "bomb.png": _bomb(20_000, 20_000),
        "pdf.jpg": b"%PDF-1.7\n",
        "zeros.tif": bytes(500),
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "secret.png").write_bytes((folder / "alpha.png").read_bytes())
    (folder / "secret.png").chmod(0)
    (bad if not os.access(folder / "secret.png", os.R_OK) else good)["secret.png"] = b""  # root may read everything
    return {*good, "really-a-png.jpg", "no-ending", "whole.png"}, {*bad, "pipe.png", "dangling.png", "loop.png"}


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has very many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    )
