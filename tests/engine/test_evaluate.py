import pytest
import torch
from torch import nn

from ita.engine.evaluate import evaluate
from ita.meta_arch import build_model


@pytest.mark.parametrize("amp", [False, True])
def test_products_are_in_float32_unless_asked_for(amp, tiny_config, tmp_path):
    """Training's own switch does not matter."""
    cfg = tiny_config(
        SOLVER__AMP__ENABLED=True,
        SOLVER__AMP__DTYPE="bfloat16",
        TEST__AMP=amp,
        TEST__NUM_PICTURES=3,
        MODEL__MASK_FORMER__TEST__INSTANCE_ON=True,
    )
    model, types = build_model(cfg).train(), set()
    for module in model.decoder.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, __, out: types.add(out.dtype))
    results = evaluate(cfg, model)
    assert types == {torch.bfloat16 if amp else torch.float32}
    assert results["toy_val"].keys() == {"info", "sem_seg", "panoptic_seg", "segm", "dominant"}
    assert len(list((tmp_path / "run" / "inference" / "toy_val" / "pictures").iterdir())) == 3
    assert model.training


def test_without_dominant_categories_there_is_no_hit_rate(tiny_config):
    cfg = tiny_config(MODEL__ITA__NUM_DOMINANT=0, MODEL__MASK_FORMER__TEST__INSTANCE_ON=False)
    results = evaluate(cfg, build_model(cfg))
    assert results["toy_val"].keys() == {"info", "sem_seg", "panoptic_seg"}
