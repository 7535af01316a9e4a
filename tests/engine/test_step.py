import copy
import json
import math
import re

import pytest
import torch
from torch import nn

from ita.engine.nonfinite import MAX_IN_A_ROW, SKIP, NonFiniteSteps
from ita.engine.step import MAX_OVERFLOWS_IN_A_ROW, OptimizerStep
from ita.errors import UserError

CPU = torch.device("cpu")


class Regression(nn.Module):
    """Two losses over a batch of records, means over it as ITA's are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 2)
        self.dtypes = []

    def forward(self, records):
        predicted = self.linear(torch.stack([record["x"] for record in records]))
        self.dtypes.append(predicted.dtype)
        predicted = predicted.float()
        factor = torch.tensor([record.get("factor", 1.0) for record in records])[:, None]
        loss = 0.01 * ((predicted - 3) ** 2 * factor).mean()
        root = 0.01 * (self.linear.bias * records[0].get("root", 1.0)).sum().abs().sqrt()
        return {"loss_square": loss, "loss_root": root}


def records(count, **more):
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(4, generator=generator), **more} for _ in range(count)]


def make_step(optimizer=torch.optim.SGD, lr=1.0, **options):
    model = Regression()
    defaults = {"device": CPU, "dtype": torch.float32, "max_norm": math.inf, "norm_type": 2.0}
    return OptimizerStep(model, optimizer(model.parameters(), lr=lr), **{**defaults, **options})


def weights(step):
    return torch.cat([p.detach().flatten().clone() for p in step.model.parameters()])


def test_accumulated_halves_are_the_whole_batch():
    whole, halves, batch = make_step(), make_step(), records(6)
    for _ in range(2):
        one, two = whole([batch]), halves([batch[:3], batch[3:]])
    torch.testing.assert_close(weights(whole), weights(halves))
    assert two.losses == pytest.approx(one.losses)
    assert two.grad_norm == pytest.approx(one.grad_norm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_clipped_at_their_true_norm(dtype):
    """In float16 they are unscaled first, or the update would be 65536 times too small."""
    plain, clipped = make_step(), make_step(dtype=dtype, max_norm=0.001)
    norm = plain([records(3)]).grad_norm
    before = weights(clipped)
    report = clipped([records(3)])
    assert report.grad_norm == pytest.approx(norm, rel=0.02)
    assert (weights(clipped) - before).norm().item() == pytest.approx(0.001, rel=1e-3)
    assert clipped.model.dtypes == [dtype]
    assert report.grad_scale == (65536 if dtype == torch.float16 else 1)


def test_a_small_gradient_is_not_clipped():
    free, clipped = make_step(), make_step(max_norm=1e4)
    for step in (free, clipped):
        step([records(3)])
    assert torch.equal(weights(free), weights(clipped))


def test_an_overflow_skips_the_step_and_halves_the_scale():
    step = make_step(torch.optim.AdamW, dtype=torch.float16, max_norm=0.001)
    before = weights(step)
    report = step([records(3, factor=1e34)])
    assert report.skipped
    assert math.isfinite(report.losses["loss_square"])
    assert torch.equal(weights(step), before)
    assert not step.optimizer.state
    report = step([records(3)])
    assert not report.skipped
    assert report.grad_scale == 65536 / 2
    assert not torch.equal(weights(step), before)
    assert step.skipped == 1


def test_endless_overflow_is_an_error():
    step = make_step(dtype=torch.float16)
    with pytest.raises(UserError, match=r"iteration 70.*SOLVER.AMP.DTYPE"):  # noqa: PT012
        for iteration in range(71 - MAX_OVERFLOWS_IN_A_ROW, 1000):
            step([records(1, factor=1e36)], iteration=iteration)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"factor": math.inf}, "iteration 7: loss_square = inf"),
        ({"factor": math.nan}, "iteration 7: loss_square = nan"),
        ({"root": 0.0}, "iteration 7: the gradient norm is nan"),
    ],
)
def test_divergence_is_named_before_it_reaches_the_weights(bad, told):
    step = make_step(max_norm=0.001)
    before = weights(step)
    with pytest.raises(UserError, match=told):
        step([records(2), records(2, **bad)], iteration=7)
    assert torch.equal(weights(step), before)


def skipping_step(folder=None, **options):
    nonfinite = NonFiniteSteps(SKIP)
    nonfinite.folder = folder
    return make_step(torch.optim.AdamW, nonfinite=nonfinite, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("bad", [{"factor": math.nan}, {"factor": math.inf}])
def test_a_skipped_step_leaves_weights_optimizer_and_loss_scale(dtype, bad, caplog):
    step, same = skipping_step(dtype=dtype), skipping_step(dtype=dtype)
    for one in (step, same):
        one([records(3)])
    before = copy.deepcopy(step.optimizer.state_dict())
    report = step([records(2), records(2, file_name="bad.jpg", **bad)], iteration=7)
    assert report.nonfinite
    assert not report.skipped
    assert torch.equal(weights(step), weights(same))
    assert str(step.optimizer.state_dict()) == str(before)
    assert re.match(r"skipped iteration 7: loss_square = (nan|inf), .*bad.jpg", caplog.messages[-1])
    for one in (step, same):
        after = one([records(4)])
        assert not after.nonfinite
    assert torch.equal(weights(step), weights(same))
    assert step.scaler.get_scale() == same.scaler.get_scale()
    assert (step.nonfinite.skipped, same.nonfinite.skipped) == (1, 0)


def test_endless_skipping_is_an_error():
    """A finite step begins a new row; a resumed run goes on with the row."""
    step = skipping_step()
    bad = [records(1, factor=math.nan)]
    for _ in range(MAX_IN_A_ROW - 1):
        step(bad)
    step([records(1)])
    for _ in range(MAX_IN_A_ROW - 1):
        step(bad)
    resumed = skipping_step()
    resumed.load_state_dict(copy.deepcopy(step.state_dict()))
    with pytest.raises(UserError, match=f"{MAX_IN_A_ROW} steps in a row .* iteration 70: loss_sq"):
        resumed(bad, iteration=70)
    assert resumed.nonfinite.skipped == 2 * MAX_IN_A_ROW - 1


def test_gradients_are_described_before_they_are_clipped(tmp_path):
    """Clipping by a norm that is not finite would make all of them nan."""
    nonfinite = NonFiniteSteps()
    nonfinite.folder = tmp_path
    step = make_step(max_norm=0.001, nonfinite=nonfinite)
    with pytest.raises(UserError, match=r"iteration 7: the gradient norm is nan; .*0000007\.json"):
        step([records(2, root=0.0)], iteration=7)
    content = json.loads((tmp_path / "nonfinite_0000007.json").read_text())
    assert content["gradients"]["not_finite"] == {"linear.bias": "nan"}
    assert content["gradients"]["largest"]["linear.weight"] > 0
    assert (content["iteration"], content["grad_norm"]) == (7, "nan")


def test_only_images_of_bad_micro_batches_are_named():
    parts = [records(6, file_name="good.jpg"), records(6, file_name="bad.jpg", factor=math.inf)]
    with pytest.raises(UserError) as caught:
        make_step()(parts)
    message = str(caught.value)
    assert "bad.jpg, 2 more" in message
    assert "good.jpg" not in message
    assert "\n" not in message


def test_state_goes_on_bitwise():
    first = make_step(torch.optim.AdamW, lr=0.1, dtype=torch.float16)
    first([records(3, factor=1e34)])
    first([records(2)])
    second = make_step(torch.optim.AdamW, lr=0.1, dtype=torch.float16)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    reports = [step([records(4)]) for step in (first, second)]
    assert reports[0] == reports[1]
    assert torch.equal(weights(first), weights(second))
    assert second.skipped == 1


def test_state_of_another_precision_is_accepted():
    float16, float32 = make_step(dtype=torch.float16), make_step()
    float32.load_state_dict(float16.state_dict())
    float16.load_state_dict(float32.state_dict())
    assert float16.scaler.get_scale() == 65536
