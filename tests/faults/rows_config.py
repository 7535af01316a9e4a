"""Faults of configs: files that are none, and values that cannot be."""

from tests.engine.tiny import CONFIG
from tests.faults.fault import fault


def value_row(key, value, must_be):
    """A row of one override."""

    @fault(
        done=f"{key} {value!r}",
        seen=f"error: {key} is {value!r}; it must be {must_be}",
        code=1,
        left="nothing",
    )
    def row(world):
        return world.train(**{key.replace(".", "__"): value})

    return row


no_workers = value_row("DATALOADER.NUM_WORKERS", -1, "an integer from 0 to 1024")
no_queries = value_row("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 0, "an integer from 1")
unknown_device = value_row("MODEL.DEVICE", "gpu", "cuda, cuda:N")
huge_seed = value_row("SEED", 2**32, "an integer from")
no_folder = value_row("OUTPUT_DIR", "", "text that is not empty")
negative_rate = value_row("SOLVER.BASE_LR", -1.0, "a number above 0")
no_rate = value_row("SOLVER.BASE_LR", None, "a number above 0")
no_batch = value_row("SOLVER.IMS_PER_BATCH", 0, "an integer from 1")
no_names = value_row("DATASETS.TRAIN", (1,), "a tuple of at least one text")
mixed_steps = value_row("SOLVER.STEPS", (1, "x"), "a tuple of increasing integers")


def file_row(done, content, seen):
    """A row of a config file."""

    @fault(done=f"config file: {done}", seen=seen, code=1, left="nothing")
    def row(world):
        path = world.folder / "config.yaml"
        path.write_bytes(content)
        return world.ita("train", "--config-file", path, "OUTPUT_DIR", world.run)

    return row


deep = file_row("2000 nested lists", b"SEED: " + b"[" * 2000, "more than 50 levels")
large = file_row("100 MB", b"# " + b"x" * 10**8, "more than 1,048,576 bytes")
binary = file_row("an image", b"\x89PNG\r\n\x1a\n\x00", "cannot read config")
latin = file_row("Latin-1", b"OUTPUT_DIR: caf\xe9\n", "codec can't decode byte 0xe9")
twice = file_row("a key twice", b"SEED: 1\nSEED: 2\n", "'SEED' is there twice")
bomb = file_row(
    "a billion laughs",
    b"a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (name, name, b", ".join([b"*%c" % before] * 10))
        for before, name in zip(b"abcdefgh", b"bcdefghi", strict=True)
    ),
    "more than 100,000 values",
)


@fault(
    done="an override without a value",
    seen="SEED has no value",
    code=1,
    left="nothing",
)
def no_value(world):
    return world.ita("train", "--config-file", CONFIG, "OUTPUT_DIR", world.run, "SEED")
