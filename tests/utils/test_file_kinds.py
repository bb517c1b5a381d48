"""Recognition of the files that stand in the place of other ones."""

import bz2
import gzip
import io
import lzma
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from sspsam.utils.file_kinds import HEAD_BYTES, foreign_kind, missing_target

PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
NOISE = np.random.default_rng(0).bytes(9000)
ANNEX = b"/annex/objects/SHA256E-s3360000000--" + b"a" * 64 + b".pth\n"


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"x")
    return file.getvalue()


KINDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is an empty file"),
    "zeros": (bytes(100), "holds only zeros"),
    "blanks": (b"\n \t\r\n", "holds only blanks"),
    "blanks behind a mark": (b"\xef\xbb\xbf\n", "holds only blanks"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
    "an old LFS pointer": (b"version https://hawser.github.com/spec/v1\n", "is a Git LFS pointer"),
    "an annex pointer": (ANNEX, "is a git-annex pointer"),
    "an annex link as a file": (b"../../.git/annex/objects/2k/Xv/SHA256E-s1--a.pth/x", "is a git-annex pointer"),
    "a page": (PAGE.encode(), "is an HTML page"),
    "a page in capitals": (b"<HTML>", "is an HTML page"),
    "a page behind blanks": (b"\r\n\n  " + PAGE.encode(), "is an HTML page"),
    "a page behind a mark": (b"\xef\xbb\xbf " + PAGE.encode(), "is an HTML page"),
    "a page in UTF-16": (PAGE.encode("utf-16"), "is an HTML page"),
    "a page behind a comment": (b"<!-- saved\nfrom url --> <!-- x -->\n" + PAGE.encode(), "is an HTML page"),
    "a comment longer than the head": (b"<!-- " + b"x" * 9000, "is an HTML page"),
    "a page in Latin-1": (b"<p>M\xfcller</p>", "is an HTML page"),
    "a part of a page": (b"<center><h1>502 Bad Gateway</h1></center>", "is an HTML page"),
    "an error of a store": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML document"),
    "an error without a declaration": (b"<Error><Code>NoSuchKey</Code></Error>", "is an XML document"),
    "a page in XML": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x"><html>', "is an HTML page"),
    "a drawing": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "is an SVG drawing"),
    "a drawing behind comments": (b'<!-- a --><?xml version="1.0"?>\n<!-- b -->\n<svg>', "is an SVG drawing"),
    "a drawing with its document type": (b"<!DOCTYPE svg PUBLIC 'x'>", "is an SVG drawing"),
    "an error behind a comment": (b"<!-- a --><Error/>", "is an XML document"),
    "a compressed page": (gzip.compress(PAGE.encode() * 900), "by gzip, and unpacked it is an HTML page"),
    "a compressed answer": (gzip.compress(b'{"error": "x"}'), 'unpacked it is a JSON document.*"error"'),
    "compressed data": (gzip.compress(NOISE), "is compressed by gzip; unpack it: gunzip"),
    "compressed data that begins as markup does": (gzip.compress(b"<a" + NOISE), "is compressed by gzip; unpack it"),
    "a page behind a form feed": (b"\f" + PAGE.encode(), "is an HTML page"),
    "compressed twice": (gzip.compress(gzip.compress(b"x", mtime=0)), "is compressed by gzip; unpack it: gunzip"),
    "a damaged gzip": (b"\x1f\x8b\xff\xff\xff", "is compressed by gzip; unpack it: gunzip"),
    "bzip2": (bz2.compress(b"x"), "is compressed by bzip2"),
    "xz": (lzma.compress(b"x"), "is compressed by xz"),
    "an answer": (b'{"error": "Repository not found"}', r'is a JSON document.*: \{"error": "Repository not found"\}$'),
    "a list": (b' [{"error": 1}]', "is a JSON document"),
    "a 404": (b"Entry not found", "holds text, perhaps the answer of a server: Entry not found$"),
    "an answer of two lines": ("Accès refusé\nréessayez\n".encode(), "holds text.*: Accès refusé réessayez$"),
    "long text": ("ä".encode() * HEAD_BYTES, "holds text.*: ä{80}$"),
    "a zip": (_zip(), "is a zip archive"),
    "an array": (_npy(), "is a NumPy array"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3", "is a PDF document"),
    "safetensors": (safetensors.numpy.save({"a": np.ones(3)}), "is a safetensors file$"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_called_what_it_is_by_its_first_bytes(name: str) -> None:
    content, words = KINDS[name]
    described = foreign_kind(content[:HEAD_BYTES])
    assert described
    assert re.search(words, described), described
    assert len(described) < 300
    assert described.isprintable()


def test_the_expected_kind_is_not_described_and_others_are() -> None:
    for kind, name in (("zip", "a zip"), ("safetensors", "safetensors"), ("JSON", "an answer"), ("JSON", "a list")):
        assert foreign_kind(KINDS[name][0], kind) == ""
    assert "safetensors" in foreign_kind(KINDS["safetensors"][0], "zip")
    assert "holds text" in foreign_kind(b"Entry not found", "JSON")


def test_what_is_not_recognised_is_not_described() -> None:
    noise = (NOISE[:100] + b"\xff", b"<a" + NOISE[:98], b"<!-- x -->" + NOISE)
    for content in (*noise, b"\x80\x02}q\x00.", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"text\x00\x01"):
        assert foreign_kind(content) == ""


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_no_image_is_taken_for_another_file(format_name: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, format_name)
    assert foreign_kind(file.getvalue()) == ""


def test_a_link_to_nothing_is_described(tmp_path: Path) -> None:
    (tmp_path / "annex").symlink_to(".git/annex/objects/2k/Xv/SHA256E-s1--a.pth/SHA256E-s1--a.pth")
    (tmp_path / "other").symlink_to("elsewhere")
    (tmp_path / "file").touch()
    assert "git annex get" in missing_target(tmp_path / "annex")
    assert missing_target(tmp_path / "other") == " (a link to elsewhere, which does not exist)"
    assert missing_target(tmp_path / "file") == missing_target(tmp_path / "none") == ""
