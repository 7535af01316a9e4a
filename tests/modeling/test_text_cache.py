"""Text features on disk: reuse, keys, damage, bounds, several processes."""

import copy
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import open_clip
import pytest
import torch

import ita
from ita.files import PACKAGE
from ita.modeling import text_cache, vocabulary
from ita.modeling.clip_tokens import WarningTokenizer, token_ids
from ita.modeling.ops.plain import plain_operators
from ita.modeling.text_cache import FOLDER_VARIABLE, FeatureCache, cache_folder
from ita.modeling.text_identity import text_identity
from ita.modeling.vocabulary import BARE, PROMPTS, TextEncoder

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ["cat", "dog", "traffic light"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def texts(convnext_clip, monkeypatch):
    """The texts encoded by the CLIP, in order."""
    texts, encode = [], convnext_clip.encode_text
    monkeypatch.setattr(convnext_clip, "encode_text", lambda t, _: texts.extend(t) or encode(t))
    return texts


@pytest.fixture
def encoder(convnext_clip, folder, texts):
    """Makes text encoders as a new process would, and forgets the texts encoded so far."""

    def make(clip=convnext_clip, **more):
        texts.clear()
        return TextEncoder(clip, cache=FeatureCache(folder), **more)

    return make


def files(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


def prompted(*names):
    return [prompt.format(name) for name in names for prompt in PROMPTS]


def test_a_later_process_encodes_nothing(encoder, texts, convnext_clip):
    first = encoder().encode(NAMES)
    assert texts == prompted(*NAMES)
    assert torch.equal(first, TextEncoder(convnext_clip).encode(NAMES))
    later = encoder().encode([*NAMES[::-1], "cat"])
    assert texts == []
    assert torch.equal(later, first[[2, 1, 0, 0]])
    assert later.dtype == torch.float32


def test_only_new_names_are_encoded(encoder, texts, folder):
    encoder().encode(NAMES)
    mixed = encoder().encode(["sky", "dog", "sea", "cat"])
    assert texts == prompted("sky", "sea")
    assert len(files(folder)) == 2
    again = encoder().encode(["sea", "cat", "dog", "sky"])
    assert texts == []
    assert torch.equal(again, mixed[[2, 3, 1, 0]])


def test_prompts_are_kept_apart(encoder, texts):
    encoder().encode(["cat"])
    bare = encoder().encode(["cat"], BARE)
    assert texts == ["cat"]
    assert torch.equal(encoder().encode(["cat"], BARE), bare)
    assert texts == []


NAMES_OF_ALL_KINDS = ["", " ", "a {brace} %s \\ /", "naïve \U0001f600 猫", "x\ny\0", "n" * 3000]


def test_names_of_all_kinds(encoder, texts):
    first = encoder().encode(NAMES_OF_ALL_KINDS)
    assert torch.equal(encoder().encode(NAMES_OF_ALL_KINDS), first)
    assert texts == []


def test_ten_thousand_names(folder):
    names = [f"name {i}" for i in range(10_000)]
    features = torch.randn(10_000, 16)
    FeatureCache(folder).store("ab", names, features)
    found = FeatureCache(folder).load("ab", [*names[::-1], "another"])
    assert found.keys() == set(names)
    assert torch.equal(torch.stack([found[name] for name in names]), features)


def copied(clip):
    """A copy that shares nothing with the original."""
    clip = copy.deepcopy(clip)
    vars(clip).pop("encode_text", None)  # the fixture's, which encodes with the original
    return clip


def text_tensors(clip):
    named = [*clip.clip.named_parameters(), *clip.clip.named_buffers()]
    return [n for n, _ in named if not n.startswith(("visual.", "logit_scale"))]


def test_every_weight_counts(convnext_clip):
    """One changed element, of any tensor that text features depend on."""
    names = text_tensors(convnext_clip)
    assert len(names) > 15
    changed = copied(convnext_clip)
    tensors = {**dict(changed.clip.named_parameters()), **dict(changed.clip.named_buffers())}
    seen = {text_identity(changed)}
    for name in names:
        tensors[name].view(-1)[-1] += 1
        seen.add(text_identity(changed))
    assert len(seen) == 1 + len(names)


def rotate_rows(clip):
    clip.clip.text_projection.copy_(clip.clip.text_projection.flip(0))


def change_heads(clip):
    attention = clip.clip.transformer.resblocks[0].attn
    attention.num_heads = 1
    attention.head_dim = attention.embed_dim


def change_activation(clip):
    clip.clip.transformer.resblocks[0].mlp.gelu = open_clip.transformer.QuickGELU()


def change_epsilon(clip):
    clip.clip.ln_final.eps = 0.1


def change_pooling(clip):
    clip.clip.text_pool_type = "last"


def change_context(clip):
    clip.tokenizer = open_clip.SimpleTokenizer(context_length=70)


def change_cleaning(clip):
    clip.tokenizer = open_clip.SimpleTokenizer(clean="canonicalize")


@pytest.mark.parametrize(
    "change",
    [
        rotate_rows,
        change_heads,
        change_activation,
        change_epsilon,
        change_pooling,
        change_context,
        change_cleaning,
        lambda clip: clip.half(),
    ],
)
def test_whatever_changes_text_features_counts(change, convnext_clip):
    changed = copied(convnext_clip)
    assert text_identity(changed) == text_identity(convnext_clip)
    change(changed)
    assert text_identity(changed) != text_identity(convnext_clip)


def test_images_and_modes_do_not_count(convnext_clip):
    changed = copied(convnext_clip)
    for parameter in changed.clip.visual.parameters():
        parameter.add_(1)
    changed.clip.train()
    assert text_identity(changed) == text_identity(convnext_clip)


def test_new_weights_make_new_features(encoder, texts, convnext_clip):
    before = encoder().encode(NAMES)
    changed = copied(convnext_clip)
    rotate_rows(changed)
    after = encoder(changed).encode(NAMES)
    assert not torch.allclose(before, after)
    assert torch.equal(after, TextEncoder(changed).encode(NAMES))
    assert torch.equal(encoder().encode(NAMES), before)
    assert texts == []


def test_precisions_are_kept_apart(encoder, texts):
    encoder().encode(["cat"])
    try:
        torch.set_float32_matmul_precision("medium")
        encoder().encode(["cat"])
        assert texts == prompted("cat")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_plain_operators_compute(encoder, texts, folder):
    encoder().encode(["cat"])
    before = files(folder)
    with plain_operators():
        encoder().encode(["cat", "dog"])
    assert texts == prompted("cat", "dog")
    assert files(folder) == before


def truncated(share):
    return lambda data: data[: int(share * len(data))]


def with_flipped_byte(place):
    def flip(data):
        data = bytearray(data)
        data[place] ^= 1
        return bytes(data)

    return flip


DAMAGES = {
    "empty": lambda data: b"",
    "cut in the header": truncated(0.05),
    "cut in the features": truncated(0.9),
    "longer": lambda data: data + b"more",
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"not a tensor file\n" * 50,
    "a byte of the header": with_flipped_byte(20),
    "a byte of the features": with_flipped_byte(-7),
    "another file's content": lambda data: data.replace(b"key", b"kex"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_replaced(damage, encoder, texts, folder, caplog):
    first = encoder().encode(NAMES)
    (path,) = files(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    caplog.clear()
    text = encoder()
    torch.testing.assert_close(text.encode(NAMES[:2]), first[:2])
    assert texts == prompted(*NAMES[:2])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(path) in record.getMessage()
    assert "\n" not in record.getMessage()
    assert not path.exists()
    for expected in (prompted(NAMES[2]), []):
        torch.testing.assert_close(encoder().encode(NAMES), first)
        assert texts == expected
    assert len(caplog.records) == 1


def test_many_damaged_files_are_one_warning(encoder, folder, caplog):
    for name in NAMES:
        encoder().encode([name])
    for path in files(folder):
        path.write_bytes(b"")
    encoder().encode(NAMES)
    assert len(caplog.records) == 1


def test_a_file_under_another_name_is_not_believed(folder):
    cache = FeatureCache(folder)
    cache.store("aa", ["cat"], torch.ones(1, 4))
    (path,) = files(folder)
    path.rename(folder / path.name.replace("aa-", "bb-"))
    assert cache.load("bb", ["cat"]) == {}


def test_a_folder_that_cannot_be_made(encoder, texts, folder, caplog):
    folder.write_text("a file")
    text = encoder()
    first = text.encode(["cat"])
    text.encode(["dog"])
    assert texts == prompted("cat", "dog")
    assert torch.equal(first, encoder().encode(["cat"]))
    messages = [record.getMessage() for record in caplog.records]
    assert all(str(folder) in message for message in messages)
    assert len(set(messages)) == 2  # one for reading, one for writing
    assert folder.read_text() == "a file"


def test_a_full_disk(encoder, texts, folder, caplog):
    """A limit of file sizes fails as a full disk does: while a file is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    text = encoder()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        first = text.encode(["cat"])
        text.encode(["dog"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (record,) = caplog.records
    assert "not stored" in record.getMessage()
    assert files(folder) == []
    assert torch.equal(encoder().encode(["cat"]), first)
    assert len(files(folder)) == 1


def store_each(folder, names):
    """A file per name, each a minute after the one before; the sizes of the files."""
    start, sizes = time.time() - 60 * len(names), []
    for minute, name in enumerate(names):
        before = set(files(folder))
        FeatureCache(folder).store("aa", [name], torch.ones(1, 1000))
        (path,) = set(files(folder)) - before
        os.utime(path, (start + 60 * minute,) * 2)
        sizes.append(path.stat().st_size)
    return sizes


def test_the_least_recently_used_files_are_removed(folder, monkeypatch):
    monkeypatch.setattr(text_cache, "MAX_FILES", 3)
    store_each(folder, ["a", "b", "c"])
    cache = FeatureCache(folder)
    assert cache.load("aa", ["a"]).keys() == {"a"}  # which is used now
    cache.store("aa", ["d"], torch.ones(1, 4))
    assert cache.load("aa", ["a", "b", "c", "d"]).keys() == {"a", "c", "d"}


@pytest.mark.parametrize(("spare", "kept"), [(0, "def"), (-1, "ef")])
def test_the_size_of_all_files_is_bounded(spare, kept, folder, monkeypatch):
    sizes = store_each(folder, "abcde")
    assert len(files(folder)) == 5
    monkeypatch.setattr(text_cache, "MAX_BYTES", 3 * sizes[0] + spare)
    FeatureCache(folder).store("aa", ["f"], torch.ones(1, 1000))
    assert FeatureCache(folder).load("aa", list("abcdef")).keys() == set(kept)
    assert len(files(folder)) == len(kept)


def test_incomplete_files_are_removed_once_they_are_old(folder):
    folder.mkdir()
    old, new, other = (folder / n for n in (".x.1-1.partial", ".x.2-2.partial", "notes.txt"))
    for path in (old, new, other):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    os.utime(other, (0, 0))
    FeatureCache(folder).store("aa", ["cat"], torch.ones(1, 4))
    assert not old.exists()
    assert new.exists()
    assert other.exists()


WRITER = """
import sys, time, torch
from pathlib import Path
from ita.modeling.text_cache import FeatureCache

folder, first = Path(sys.argv[1]), int(sys.argv[2])
ready = folder.parent / f"ready{first}"
ready.touch()
while len(list(folder.parent.glob("ready*"))) < 2:
    time.sleep(0.001)
# Some names are those of the other processes, in files of the same name.
for i in [*range(first, first + 20), *range(10)]:
    names, features = [f"name {i}", f"second {i}"], torch.full((2, 500), float(i))
    FeatureCache(folder).store("aa", names, features)
    found = FeatureCache(folder).load("aa", [f"name {j}" for j in range(200)])
    assert names[0] in found
    for name, feature in found.items():
        assert torch.equal(feature, torch.full((500,), float(name.split()[1]))), name
"""


def test_processes_that_write_at_once(folder):
    folder.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(first)],
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (0, 100)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert errors == [""] * 2  # not even a warning
    names = [f"name {first + i}" for first in (0, 100) for i in range(20)]
    assert FeatureCache(folder).load("aa", names).keys() == set(names)
    assert {path.suffix for path in files(folder)} == {".safetensors"}


def test_the_main_process_loads_for_all(encoder, texts, folder, monkeypatch):
    first = encoder().encode(NAMES)
    sent = []
    monkeypatch.setattr(vocabulary.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: sent.append(tensor))
    encoder(collective=True).encode(NAMES)
    assert texts == []
    assert torch.equal(sent[0], first)
    monkeypatch.setattr(vocabulary.comm, "is_main_process", lambda: False)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: tensor.copy_(first))
    before = files(folder)
    text = encoder(collective=True)
    monkeypatch.setattr(FeatureCache, "load", None)
    assert torch.equal(text.encode(["sea", "sky", "sun"]), first)
    assert texts == []
    assert files(folder) == before


def test_unknown_words_are_reported_in_every_process(convnext_clip, folder, caplog):
    clip = copied(convnext_clip)
    known = token_ids(clip.tokenizer(prompted("cat")))
    for names in (["cat", "zebra"], ["zebra", "cat"], ["cat"]):
        caplog.clear()
        clip.tokenizer = WarningTokenizer(convnext_clip.tokenizer, known, "small")
        TextEncoder(clip, cache=FeatureCache(folder)).encode(names)
        messages = [record.getMessage() for record in caplog.records]
        assert [m.count("the words: zebra;") for m in messages] == [1] * ("zebra" in names)


def test_threads_share_an_encoder(encoder, texts):
    text, results = encoder(), []
    threads = [
        threading.Thread(target=lambda: results.append(text.encode(NAMES)), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 4
    assert all(torch.equal(result, results[0]) for result in results)
    assert texts == prompted(*NAMES)


def test_features_are_float32_whatever_the_context(encoder, convnext_clip):
    expected = TextEncoder(convnext_clip).encode(NAMES)
    with torch.autocast("cpu", torch.bfloat16):
        computed = encoder().encode(NAMES)
        loaded = encoder().encode(NAMES)
    for features in (computed, loaded):
        assert features.dtype == torch.float32
        assert torch.equal(features, expected)
    half = copied(convnext_clip).bfloat16()
    for _ in range(2):
        assert encoder(half).encode(NAMES).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert TextEncoder(convnext_clip).encode(["sun"]).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_encoder_can_be_copied(convnext_clip, folder):
    """As for a process that is started with it."""
    text = copy.deepcopy(TextEncoder(convnext_clip, cache=FeatureCache(folder)))
    first = text.encode(NAMES)
    text.clip.encode_text = None
    assert torch.equal(copy.deepcopy(text).encode(NAMES), first)


@pytest.mark.parametrize(
    ("chosen", "xdg", "expected"),
    [
        (None, None, "/home/ann/.cache/ita"),
        (None, "", "/home/ann/.cache/ita"),
        (None, "relative", "/home/ann/.cache/ita"),
        (None, "/fast/cache", "/fast/cache/ita"),
        ("", "/fast/cache", None),
        ("/data/ita", "/fast/cache", "/data/ita"),
        ("~/ita files", None, "/home/ann/ita files"),
        ("here", None, str(Path.cwd() / "here")),
    ],
)
def test_the_folder(chosen, xdg, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    for variable, value in ((FOLDER_VARIABLE, chosen), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    assert cache_folder() == (Path(expected) if expected else None)
    assert (FeatureCache.of_user() is None) == (expected is None)


def test_a_predictor_uses_the_users_cache(tmp_path, monkeypatch):
    def vocabulary_of(*classes, may_encode):
        model = ita.load(device="cpu")
        if not may_encode:
            monkeypatch.setattr(model.model.backbone, "encode_text", None)
        return model.segmenter(list(classes)).vocabulary

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    first = vocabulary_of("red arrow", "grass, lawn", may_encode=True)
    later = vocabulary_of("grass, lawn", "red arrow", may_encode=False)
    assert torch.equal(later.features, first.features[[1, 2, 0]])
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    with pytest.raises(TypeError):
        vocabulary_of("red arrow", may_encode=False)
