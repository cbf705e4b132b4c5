"""How a trained step is looked at."""

import torch

from manyview import parse_recipe
from manyview.branches.spec import FEATURES
from manyview.evaluate.model import StepModel
from manyview.step import Step
from subjects import TIED, pictures


def test_a_run_is_judged_in_the_precision_that_it_was_trained_in():
    """As autocast computes it, and not as float32 would; outputs that are kept of one are not taken for the other's."""
    whole, low = (Step(parse_recipe(TIED, f"train.precision={precision}"), 10) for precision in ("fp32", "bf16"))
    low.load_state_dict(whole.state_dict())
    pixels = StepModel(low).prepare(pictures(8).pixels)
    read = {name: StepModel(step).read(pixels) for name, step in {"whole": whole, "low": low}.items()}
    assert low.training, "its mode stays"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = whole.eval().read(pixels)
    for name in (FEATURES, "logits"):
        assert read["low"][name].dtype == torch.float32
        assert torch.equal(read["low"][name], expected[name].float())
        assert not torch.equal(read["low"][name], read["whole"][name])
        torch.testing.assert_close(read["low"][name], read["whole"][name], rtol=0.05, atol=0.05)
    assert StepModel(low).key != StepModel(whole).key
