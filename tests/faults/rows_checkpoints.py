"""Faults of checkpoints."""

from tests.faults.fault import fault


@fault(
    done="MODEL.WEIGHTS is a text file",
    seen="cannot read checkpoint",
    code=1,
    left="nothing",
)
def text_as_weights(world):
    (world.folder / "text.pth").write_text("no weights")
    return world.train(
        "--eval-only", MODEL__WEIGHTS=world.folder / "text.pth", DATASETS__TEST=("toy_val",)
    )
