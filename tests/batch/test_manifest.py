"""Images and expressions of a batch, from folders, lists and tables."""

import csv
import errno
import json
import os

import pytest

from sspsam import errors
from sspsam.batch import BatchOptions, run_batch
from tests.support.batches import TEXTS, draw, lines


def test_tables_give_each_image_its_own_expressions(predictor, photos, tmp_path) -> None:
    table = tmp_path / "prompts.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["image", "text"], ["sub/a.jpg", "a, b"], ["a.jpg", "der rote Kreis"], ["sub/a.jpg", "two"]])
    json_lines = photos / "prompts.jsonl"
    json_lines.write_text(
        '{"image": "sub/a.jpg", "text": ["a, b", "two"]}\n\n{"image": "./a.jpg", "text": "der rote Kreis"}'
    )
    expected = [("sub/a.jpg", "a, b"), ("sub/a.jpg", "two"), ("a.jpg", "der rote Kreis")]
    for number, (source, prompts) in enumerate([(photos, table), (json_lines, None)]):
        run_batch(source, tmp_path / f"out{number}", predictor=predictor, prompts=prompts)
        results = lines(tmp_path / f"out{number}" / "results.jsonl")
        assert [(line["image"], line["text"]) for line in results] == expected
    table.write_text("image,text\na.jpg,another\n")
    with pytest.raises(errors.BatchError, match="texts was"):
        run_batch(photos, tmp_path / "out0", predictor=predictor, prompts=table)


def test_an_expression_with_two_labels_is_two_answers(predictor, photos, tmp_path) -> None:
    rows = [("a.jpg", "heart"), ("a.jpg", "other"), ("a.jpg", "heart"), ("a.jpg", "")]
    table = photos / "labels.csv"
    table.write_text("image,text,label\n" + "".join(f"{image},the heart,{label}\n" for image, label in rows))
    run_batch(table, tmp_path / "out", predictor=predictor)
    assert [line["label"] for line in lines(tmp_path / "out" / "results.jsonl")] == ["heart", "other"]


def test_a_misspelt_column_is_a_warning(predictor, photos, tmp_path) -> None:
    table = photos / "labels.csv"
    table.write_text("image,text,lable,size\na.jpg,the heart,heart,3\n")
    with pytest.warns(errors.SSPSAMWarning, match="the column 'lable' is ignored: 'label' is the name that is read"):
        run_batch(table, tmp_path / "out", predictor=predictor)


def test_lists_name_images_in_any_folder(predictor, photos, tmp_path) -> None:
    (tmp_path / "list.txt").write_text(
        f"photos/a.jpg\n{photos / 'b.png'}\nphotos/../photos/a.jpg\nphotos/missing.png\n"
    )
    run_batch(tmp_path / "list.txt", tmp_path / "out", TEXTS, predictor=predictor)
    results = lines(tmp_path / "out" / "results.jsonl")
    assert [line["image"] for line in results[::2]] == ["photos/a.jpg", (photos / "b.png").as_posix()]
    assert all((tmp_path / "out" / line["files"]["mask"]).is_file() for line in results)
    assert [line["error"] for line in lines(tmp_path / "out" / "errors.jsonl")] == ["ImageNotFoundError"]
    run_batch([photos / "a.jpg", str(photos / "b.png")], tmp_path / "other", TEXTS, predictor=predictor)
    assert len(lines(tmp_path / "other" / "results.jsonl")) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "picture,text\na.jpg,x\n", "first line has to name the columns"),
        ("p.csv", "image,text\na.jpg,\n", "line 2 has no expression"),
        ("p.csv", "image,text\n,x\n", "line 2: no image"),
        ("p.csv", 'image,text\na.jpg,"x\n', r"p.csv, line 2: unexpected end of data: put a text"),
        ("p.csv", 'image,text\na.jpg,x\nb.png,"x" y\n', r"p.csv, line 3: .* expected after .*: put a text"),
        ("p.csv", "image,text,text\na.jpg,x,y\n", "p.csv: the first line names the column 'text' twice"),
        ("p.csv", "image,text,image\na.jpg,x,b.png\n", "p.csv: the first line names the column 'image' twice"),
        ("p.csv", "", "p.csv: the first line has to name the columns, image and text; the file is empty"),
        ("p.csv", "image,text\na.jpg,the mug, the cat\n", "line 2 has more columns.*double quotes"),
        ("p.tsv", "image\ttext\na.jpg\tx\ty\n", "line 2 has more columns"),
        ("p.json", '["x"]', r"p.json is no file of prompts.*\.txt"),
        ("p.jsonl", '{"image": "a.jpg", "text": "x"}\n{"image": 3}\n', "line 2"),
        ("p.jsonl", '{"image": "a.jpg"', "line 1 is not JSON"),
        ("p.jsonl", '{"image": "a.jpg", "text": "  "}\n', "line 1.*empty"),
        ("p.txt", "\n\n", "no expression"),
    ],
)
def test_malformed_prompts_are_named_before_anything_is_written(
    predictor, photos, tmp_path, name, content, message
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises((errors.ManifestError, errors.TextError), match=message):
        run_batch(photos, tmp_path / "out", predictor=predictor, prompts=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_glob_selects_files(predictor, photos, tmp_path) -> None:
    patterns = [("*.png", 2), ("sub/*", 2), ("*.md", 0), ("**/*.jpg", 2), ("./*.png", 2), ("sub/**/*.png", 1)]
    for number, (glob, expected) in enumerate(patterns):
        options = BatchOptions(glob=glob)
        run_batch(photos, tmp_path / str(number), TEXTS, predictor=predictor, options=options)
        assert len(lines(tmp_path / str(number) / "results.jsonl")) == 2 * expected
    with pytest.raises(errors.ManifestError, match=r"no images that match '\*.tif'"):
        run_batch(photos, tmp_path / "none", TEXTS, predictor=predictor, options=BatchOptions(glob="*.tif"))
    with pytest.raises(errors.ManifestError, match="a list or table of images is none: leave it out"):
        run_batch([photos / "a.jpg"], tmp_path / "no", TEXTS, predictor=predictor, options=BatchOptions(glob="*"))


def test_files_that_only_resemble_images_are_skipped(predictor, photos, tmp_path) -> None:
    (photos / "cars.txt").write_text("BMW, and others")
    draw(photos / "preview.tif", 3)
    (photos / "preview.tif").rename(photos / "DSC1.NEF")
    draw(photos / "drawn.bmp", 3)
    (photos / "drawn.bmp").rename(photos / "drawn")
    summary = run_batch(photos, tmp_path / "out", "the star", predictor=predictor)
    assert summary.passed_over == 3
    assert "drawn" in {line["image"] for line in lines(tmp_path / "out" / "results.jsonl")}


def test_unreadable_entry_is_recorded_as_an_error_and_the_run_continues(predictor, photos, tmp_path) -> None:
    (photos / "loop.png").symlink_to("loop.png")
    (photos / "sub" / "a.jpg-1.png").mkdir()
    draw(photos / "sub" / "a.jpg-1.png" / "x.png", 1)  # a folder with the name of a mask
    run_batch(photos, tmp_path / "out", "the star", predictor=predictor)
    assert [line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")] == ["bad.jpg", "loop.png"]
    results = lines(tmp_path / "out" / "results.jsonl")
    assert len({line["files"]["mask"] for line in results}) == len(results) == 5
    assert all((tmp_path / "out" / line["files"]["mask"]).is_file() for line in results)


def test_output_inside_the_input_is_not_read_as_input(predictor, photos) -> None:
    for _ in range(2):
        summary = run_batch(photos, photos / "masks", TEXTS, predictor=predictor)
        assert summary.pictures == 5


def test_table_of_prompts_needs_a_folder_of_images(predictor, photos, tmp_path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("image,text\na.jpg,the mug\n")
    for source in ([photos / "a.jpg"], photos / "a.jpg"):
        with pytest.raises(errors.ManifestError, match=r"prompts.csv names its own images.*folder"):
            run_batch(source, tmp_path / "out", predictor=predictor, prompts=table)
    with pytest.raises(errors.ManifestError, match="no such folder"):
        run_batch(tmp_path / "none", tmp_path / "out", predictor=predictor, prompts=table)
    with pytest.raises(errors.ManifestError, match=r"is a table of images and expressions already"):
        run_batch(table, tmp_path / "out", predictor=predictor, prompts=table)
    assert not (tmp_path / "out").exists()


IMPOSSIBLE = ["c\0d.png", "\ud800.png", "x" * 300, "y" * 5000]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", "paths"])
def test_a_name_that_no_file_can_have_fails_its_image_only(predictor, photos, tmp_path, suffix) -> None:
    names = ["a.jpg", *IMPOSSIBLE, "b.png"]
    if suffix in (".csv", ".txt"):
        names.remove("\ud800.png")  # no such file is text in UTF-8
    source = photos / f"list{suffix}"
    if suffix == ".jsonl":
        source.write_text("\n".join(json.dumps({"image": name}) for name in names))
    elif suffix == ".csv":
        source.write_text("\n".join(["image", *names]))
    elif suffix == ".txt":
        source.write_text("\n".join(names))
    else:
        source = [photos / "a.jpg", *IMPOSSIBLE, photos / "b.png"]
    for earlier in (0, 2):
        options = BatchOptions(formats=("mask", "coco"))
        summary = run_batch(source, tmp_path / "out", "x", predictor=predictor, options=options)
        assert (summary.done, summary.earlier, summary.failed) == (2 - earlier, earlier, len(names) - 2)
    failures = lines(tmp_path / "out" / "errors.jsonl")
    assert [line["image"] for line in failures] == names[1:-1]
    assert all(line["message"].isprintable() and len(line["message"]) < 600 for line in failures)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".txt"])
def test_lists_and_tables_may_have_any_line_ends(predictor, photos, tmp_path, suffix, end) -> None:
    content = {".jsonl": ['{"image": "a.jpg"}', '{"image": "b.png"}'], ".txt": ["a.jpg", "b.png"]}
    source = photos / f"list{suffix}"
    source.write_bytes(end.join([*content.get(suffix, ["image", "a.jpg", "b.png"]), ""]).encode())
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes(end.join(["one", "two"]).encode())
    run_batch(
        source,
        tmp_path / "out",
        predictor=predictor,
        prompts=None if suffix != ".txt" else prompts,
        texts=None if suffix == ".txt" else ["one", "two"],
    )
    found = [(line["image"], line["text"]) for line in lines(tmp_path / "out" / "results.jsonl")]
    assert found == [("a.jpg", "one"), ("a.jpg", "two"), ("b.png", "one"), ("b.png", "two")]


@pytest.mark.parametrize("entry", [None, 5, 2.5, ["a"]])
def test_an_entry_that_is_no_path_is_named_with_its_place(predictor, photos, tmp_path, entry) -> None:
    with pytest.raises(errors.ManifestTypeError, match="place 2 of the list must be a path") as caught:
        run_batch([photos / "a.jpg", entry], tmp_path / "out", "x", predictor=predictor)
    assert isinstance(caught.value, TypeError)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("outside", ["{photos}/a.jpg", "../photos/a.jpg"])
def test_yolo_is_refused_for_images_whose_labels_no_reader_would_find(predictor, photos, tmp_path, outside) -> None:
    (tmp_path / "lists").mkdir()
    listed = tmp_path / "lists" / "list.txt"
    listed.write_text(outside.replace("../photos", f"../{photos.name}").format(photos=photos))
    options = BatchOptions(formats=("mask", "yolo"))
    with pytest.raises(errors.BatchError, match=r"yolo needs names of images that are relative.*a\.jpg is not such"):
        run_batch(listed, tmp_path / "out", TEXTS, predictor=predictor, options=options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("link", ["loop", "sub"])
def test_errors_of_a_folder_are_the_same_from_every_working_directory(predictor, photos, tmp_path, monkeypatch, link):
    if link == "loop":
        (photos / "loop.jpg").symlink_to("loop.jpg")
    else:
        monkeypatch.setattr(os, "scandir", refusing_scandir(os.scandir))
    monkeypatch.chdir(photos.parent)
    run_batch(photos.name, tmp_path / "out", TEXTS, predictor=predictor)
    [line] = [line for line in lines(tmp_path / "out" / "errors.jsonl") if "cannot read" in line["message"]]
    assert f"cannot read {'the folder ' if link == 'sub' else ''}{photos}" in line["message"]


def refusing_scandir(scandir):
    def scan(path):
        if str(path).endswith("sub"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    return scan
