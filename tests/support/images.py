"""Image files of every kind that Pillow opens, and broken files of every kind that it does not open."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from sspsam.shapes import draw_scene


def write_bad_images(folder: Path) -> tuple[set[str], set[str]]:
    """Write unusual readable images and unreadable files; return the names of the readable and of the unreadable."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = draw_scene(3, (60, 90)).pixels
    scene = Image.fromarray(pixels)
    good = {
        "sixteen.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "cmyk.jpg": scene.convert("CMYK"),
        "one.png": scene.crop((0, 0, 1, 1)),
        "palette.gif": scene.convert("P"),
        "alpha.png": scene.convert("RGBA"),
        "x" * 246 + ".png": scene,
        "🦊 fox.png": scene,
        "two\nlines.png": scene,
        "-rf.png": scene,
    }
    for name, image in good.items():
        image.save(folder / name)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        scene.save(folder / f"turned{orientation}.jpg", exif=exif)
        good[f"turned{orientation}.jpg"] = scene
    scene.save(folder / "really-a-png.jpg", format="PNG")
    scene.save(folder / "no-ending", format="JPEG")
    (folder / "whole.png").write_bytes((folder / "alpha.png").read_bytes())

    bad = {
        "empty.jpg": b"",
        "text.png": b"not an image at all",
        "truncated.png": (folder / "alpha.png").read_bytes()[:200],
        "truncated.jpg": (folder / "turned1.jpg").read_bytes()[:400],
        "bomb.png": bomb(20_000, 20_000),
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
    (bad if not os.access(folder / "secret.png", os.R_OK) else good)["secret.png"] = b""  # root can read every file
    return {*good, "really-a-png.jpg", "no-ending", "whole.png"}, {*bad, "pipe.png", "dangling.png", "loop.png"}


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its length and its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header states a large number of pixels."""

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    )


def eps() -> bytes:
    """Return a small EPS file, which Pillow opens by Ghostscript."""
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "EPS")
    return file.getvalue()
