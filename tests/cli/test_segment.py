"""``ita segment`` as people run it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from ita.cli import main
from ita.data.videos import open_video
from ita.reports.label_maps import encode_label_png
from ita.toy.names import SEEN_THINGS, STUFF, THINGS
from ita.toy.scenes import draw_scene
from tests.videos import make_video


@pytest.fixture
def image(tmp_path):
    scene = draw_scene(np.random.default_rng(3), 96, 120, SEEN_THINGS, STUFF)
    path = tmp_path / "scene.jpg"
    Image.fromarray(scene.image).save(path)
    return path


def test_label_map_and_overlay_are_written(image, tmp_path, capsys):
    output = tmp_path / "new" / "folder"
    classes = "red circle; blue star, azure pentagram; grass; water"
    assert main(["segment", str(image), "--classes", classes, "--output", str(output)]) == 0
    files = ["classes.json", "scene.json", "scene.png", "scene_overlay.png"]
    assert sorted(p.name for p in output.iterdir()) == files
    names = json.loads((output / "classes.json").read_text())
    assert [row["name"] for row in names] == ["red circle", "blue star", "grass", "water"]
    assert names[1]["synonyms"] == ["azure pentagram"]
    with Image.open(output / "scene.png") as labels:
        assert (labels.mode, labels.size) == ("P", (120, 96))
        assert set(np.unique(np.asarray(labels))) <= {0, 1, 2, 3}
        colors = np.array(labels.getpalette()).reshape(-1, 3)[:4]
        assert colors.tolist() == [row["color"] for row in names]
    with Image.open(output / "scene_overlay.png") as overlay:
        assert overlay.mode == "RGB"
    result = json.loads((output / "scene.json").read_text())
    assert (result["width"], result["height"], result["segments"]) == (120, 96, None)
    assert result["dominant"][0]["probability"] > 0
    printed = capsys.readouterr()
    assert str(output / "scene.png") in printed.out
    assert "toy model, which knows drawn shapes only" in printed.err


def test_hundreds_of_classes_on_the_command_line(image, tmp_path):
    classes = "; ".join(f"{name}, a {name}" for name in (*THINGS, *STUFF))
    for given in (classes, 100 * "very " + "long name"):
        words = ["segment", str(image), "--classes", given, "--output", str(tmp_path / "out")]
        assert main(words) == 0


def test_a_class_list_file(image, tmp_path):
    (tmp_path / "mine.txt").write_text("7: red circle\n3: grass, lawn\n")
    arguments = ["--classes", str(tmp_path / "mine.txt"), "--output", str(tmp_path / "out")]
    assert main(["segment", str(image), *arguments]) == 0
    labels = np.asarray(Image.open(tmp_path / "out" / "scene.png"))
    assert set(np.unique(labels)) <= {0, 1}


def test_a_list_of_names_without_ids(image, tmp_path):
    (tmp_path / "mine.txt").write_text("# mine\n\nred circle\ngrass, lawn\n")
    arguments = ["--classes", str(tmp_path / "mine.txt"), "--output", str(tmp_path / "out")]
    assert main(["segment", str(image), *arguments]) == 0
    names = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert [row["name"] for row in names] == ["red circle", "grass"]
    assert names[1]["synonyms"] == ["lawn"]


CLASSES = "; ".join((*SEEN_THINGS, *STUFF))


def segments_of(output):
    return json.loads((output / "scene.json").read_text())["segments"]


def test_panoptic_segments(image, tmp_path):
    output = tmp_path / "out"
    words = ["segment", str(image), "--classes", CLASSES, "--output", str(output)]
    words += ["--task", "panoptic", "--things", "; ".join(SEEN_THINGS)]
    assert main(words) == 0
    masks = [mask_util.decode(segment["mask"]) for segment in segments_of(output)]
    assert len(masks) > 1
    assert np.sum(masks, axis=0).max() == 1
    assert {s["is_thing"] for s in segments_of(output)} == {True, False}
    assert {s["name"] for s in segments_of(output) if not s["is_thing"]} <= set(STUFF)


def test_instances_above_a_score(image, tmp_path):
    found = {}
    for score in ("0", "0.5", "1"):
        output = tmp_path / score
        words = ["segment", str(image), "--classes", CLASSES, "--output", str(output)]
        assert main([*words, "--task", "instance", "--min-score", score]) == 0
        found[score] = segments_of(output)
    assert min(segment["score"] for segment in found["0.5"]) >= 0.5
    assert len(found["0"]) > len(found["0.5"]) > len(found["1"])
    words[-1] = str(tmp_path / "default")
    assert main([*words, "--task", "instance"]) == 0
    assert segments_of(tmp_path / "default") == found["0.5"]


def test_things_of_a_built_in_list(image, tmp_path):
    words = ["segment", str(image), "--classes", "coco133", "--task", "panoptic"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    assert all(s["is_thing"] == (s["class_index"] < 80) for s in segments_of(tmp_path))


def test_a_video(image, tmp_path, capsys):
    pytest.importorskip("av")
    clip, output = tmp_path / "clip.mp4", tmp_path / "out"
    scene = np.asarray(Image.open(image))
    make_video(clip, [scene, scene[:, ::-1], scene])
    words = ["segment", str(clip), str(image), "--classes", CLASSES, "--output", str(output)]
    for _ in range(2):  # the second run replaces the files of the first
        assert main([*words, "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert rows[0] == {
            "video": str(clip),
            "label_map": str(output / "clip"),
            "overlay": str(output / "clip_overlay.mp4"),
            "result": str(output / "clip.jsonl"),
            "frames": 3,
        }
    names = ["000000.png", "000001.png", "000002.png"]
    assert sorted(p.name for p in (output / "clip").iterdir()) == names
    first, second, third = (np.asarray(Image.open(output / "clip" / name)) for name in names)
    assert (first == third).mean() > 0.95
    assert (first == second[:, ::-1]).mean() > 0.9 > (first == second).mean()
    assert (first == np.asarray(Image.open(output / "scene.png"))).mean() > 0.9
    lines = [json.loads(line) for line in (output / "clip.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["seconds"]) for line in lines] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    with open_video(output / "clip_overlay.mp4") as video:
        drawn = [frame.image for frame in video.frames()]
    assert [frame.shape for frame in drawn] == [(96, 120, 3)] * 3
    assert (
        np.abs(drawn[0].astype(int) - drawn[2]).mean()
        < 8
        < np.abs(drawn[0].astype(int) - drawn[1]).mean()
    )


def test_a_bad_video_leaves_nothing(image, tmp_path, capsys):
    pytest.importorskip("av")
    clip, output = tmp_path / "clip.mp4", tmp_path / "out"
    clip.write_bytes(b"no video")
    words = ["segment", str(clip), str(image), "--classes", "grass", "--output", str(output)]
    assert main(words) == 1
    assert f"error: cannot read video {clip}: " in capsys.readouterr().err
    assert [p.name for p in output.glob("clip*")] == []


def test_a_folder_of_other_files_is_not_replaced(tmp_path, capsys):
    pytest.importorskip("av")
    (tmp_path / "out/clip").mkdir(parents=True)
    (tmp_path / "out/clip/notes.txt").touch()
    make_video(tmp_path / "clip.mp4", [np.zeros((48, 64, 3))])
    words = ["segment", str(tmp_path / "clip.mp4"), "--classes", "grass"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 1
    assert "clip has other content (notes.txt)" in capsys.readouterr().err
    assert (tmp_path / "out/clip/notes.txt").exists()


def test_a_bad_image_does_not_stop_the_others(image, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    output = tmp_path / "out"
    words = ["segment", str(broken), str(image), "--classes", "grass", "--output", str(output)]
    assert main(words) == 1
    assert (output / "scene.png").is_file()
    assert not (output / "broken.png").exists()
    errors = capsys.readouterr().err.splitlines()
    assert any("broken.jpg" in line for line in errors)
    assert errors[-2:] == ["1 of 2 files could not be segmented", f"  {broken}"]
    assert (output / "classes.json").is_file()


def test_folders_and_patterns(image, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("10.png", "9.JPG", "notes.txt"):
        shutil.copy(image, folder / name)
    output = tmp_path / "out"
    words = ["segment", str(folder), str(tmp_path / "sc*.jpg"), str(image), "--json"]
    assert main([*words, "--classes", "grass; water", "--output", str(output)]) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["image"] for row in rows] == [
        *(str(folder / n) for n in ("9.JPG", "10.png")),
        str(image),
    ]
    for row in rows:
        labels = np.asarray(Image.open(row["label_map"]))
        assert (row["height"], row["width"]) == labels.shape == (96, 120)
        counts = {found["index"]: found["pixels"] for found in row["classes"]}
        assert counts == dict(zip(*np.unique(labels, return_counts=True), strict=True))
    assert "file/s" not in printed.err  # no progress bar where nobody watches


def test_an_input_is_never_overwritten(tmp_path, capsys):
    first, second = tmp_path / "a.png", tmp_path / "a_overlay.png"
    for path in (first, second):
        Image.new("RGB", (40, 30)).save(path)
    before = first.read_bytes()
    words = ["segment", str(first), "--classes", "cat", "--output", str(tmp_path)]
    assert main(words) == 1
    assert "would replace an input" in capsys.readouterr().err
    words = ["segment", str(first), str(second), "--classes", "cat", "--output", "out"]
    assert main(words) == 1
    assert "would write the same file" in capsys.readouterr().err
    assert first.read_bytes() == before


def test_names_that_look_like_paths(image, tmp_path):
    words = ["segment", str(image), "--classes", "~nobody; b/c", "--output", str(tmp_path / "o")]
    assert main(words) == 0


def test_a_closed_pipe_ends_quietly(image, tmp_path):
    command = [sys.executable, "-m", "ita", "segment", image, "--classes", "grass", "--output"]
    process = subprocess.Popen(
        [*command, tmp_path / "out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", " ; "], "is empty"),
        (["--classes", "cat, ; dog"], "has an empty name"),
        (["--classes", "no_such_file.txt"], "no_such_file.txt"),
        (["--classes", "ade15"], "did you mean ade150?"),
        (["--classes", "cat", "--weights", "model.pth"], "--config-file"),
        (["--classes", "cat", "--config-file", "nowhere.yaml"], "nowhere.yaml"),
        (["--classes", "cat", "--device", "gpu"], "device gpu cannot be used"),
        (["--classes", "cat", "--things", "cat"], "--things needs --task"),
        (["--classes", "cat", "--task", "panoptic", "--things", "cta"], "did you mean cat?"),
        (["--classes", "cat", "--min-score", "0.5"], "--min-score needs --task instance"),
        (["--classes", "cat", "--runtime", "onnx", "--task", "panoptic"], "--task panoptic does"),
        (["--classes", "cat", "--runtime", "onnx"], "needs --weights DIR"),
        (["--classes", "cat", "--runtime", "onnx", "--device", "cpu"], "--device does not apply"),
        (["--classes", "cat", "--runtime", "onnx", "--weights", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(arguments, message, image, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["segment", str(image), *arguments, "--output", str(output)]) == 1
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not output.exists()


def test_images_of_one_name_are_refused(image, tmp_path, capsys):
    words = ["segment", str(image), "other/scene.png", "--classes", "cat", "--output", "out"]
    assert main(words) == 1
    assert "would write the same file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classes", "mode"), [(1, "P"), (256, "P"), (257, "I;16"), (10000, "I;16")]
)
def test_label_pngs_hold_the_class_indices(classes, mode, tmp_path):
    labels = np.random.default_rng(0).integers(0, classes, (7, 5))
    path = tmp_path / "labels.png"
    path.write_bytes(encode_label_png(labels, classes))
    with Image.open(path) as image:
        assert image.mode == mode
        assert (np.asarray(image) == labels).all()
