"""ONNX answers as the run does, of any number of images; whole images of any size go in, where that is asked for."""

import json

import numpy as np
import pytest
import torch

from manyview.errors import RunError
from manyview.export.export import export_model
from manyview.export.onnx import NEEDS, opened
from manyview.export.outgoing import outgoing, pictures
from manyview.export.prepare import Stage, cuts, sizes_to_try, stages_of
from manyview.export.resize import resized
from manyview.views.ops.crop import CenterCrop, PadCrop, Resize
from manyview.views.plan import TEST, PlannedOp, PlannedView, usual_test_view
from manyview.views.view import draw_views
from subjects import run_of, trained

SLA = """
title: SLA
views:
  a: {from: image, make: "pad_crop(8, padding=1)"}
  r: {from: a, orbit: rot_color_perm6}
  test: {from: image, make: "resize(11) | center_crop(8)"}
branches: {net: {backbone: test_resnet, normalize: cifar10, joint: "linear(h, orbit=r)"}}
relations: ["joint_cross_entropy(joint(r))"]
train: {steps: 9}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of(trained(SLA, 3), tmp_path_factory.mktemp("run") / "sla")


@pytest.fixture
def onnx():
    for name in NEEDS:
        pytest.importorskip(name, reason="needs the extra 'export'")


@pytest.mark.slow(reason="torch's exporter takes seconds")
def test_the_orbit_is_inside(onnx, run, tmp_path):
    export_model(run, tmp_path / "out", "onnx", aggregate=True)
    session = opened(tmp_path / "out" / "model.onnx")
    told = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert told == json.loads((tmp_path / "out" / "model.json").read_text())
    assert told["label_names"] == ["a", "b", "c"]
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("images", ["batch", 3, 8, 8])]
    mean, std = (torch.tensor(told[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    step = run.step(run.recipe())
    for count in (1, 2, 7):
        pixels = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))
        (found,) = session.run(None, {"images": ((pixels - mean) / std).numpy()})
        with torch.no_grad():
            wanted = step.read(pixels, aggregated=True)["aggregated"].numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow(reason="torch's exporter takes seconds")
def test_whole_images_go_in(onnx, run, tmp_path):
    """All of a view's ways: cut alone, enlarged, reduced by any factor along either side, to the same grey levels."""
    export_model(run, tmp_path / "out", "onnx", preprocess="nhwc")
    session = opened(tmp_path / "out" / "model.onnx")
    step = run.step(run.recipe())
    for height, width in ((11, 11), (8, 8), (5, 9), (12, 40), (33, 22), (64, 47), (150, 301), (1, 1)):
        images = torch.randint(256, (3, 3, height, width), generator=torch.Generator().manual_seed(height)).byte()
        (found,) = session.run(None, {"images": images.permute(0, 2, 3, 1).contiguous().numpy()})
        np.testing.assert_allclose(found, step.predict(images)["logits"].numpy(), rtol=1e-5, atol=1e-5)


def view(*ops):
    return PlannedView(TEST, "image", tuple(PlannedOp(f"op{n}", op, (TEST, f"{n}")) for n, op in enumerate(ops)))


@pytest.mark.parametrize("sides", [(1, 1), (3, 2), (24, 24), (27, 90), (301, 150), (640, 427)])
@pytest.mark.parametrize("size", [27, (24, 40)])
def test_the_graph_makes_the_grey_levels_of_the_renderer(sides, size):
    images, part = pictures(2, 3, sides), (24, 23)
    made = draw_views({TEST: view(Resize(size), CenterCrop(part))}, images, None, range(2), 0, 0)[TEST].pixels
    own = torch.tensor(sides, dtype=torch.float64)
    whole = (size * own / own.min()).floor() if isinstance(size, int) else torch.tensor(size, dtype=torch.float64)
    assert torch.equal(resized(images.float(), whole, part), (made * 255).round())


def test_what_a_view_is_in_the_graph():
    size = (32, 32)
    assert stages_of(view(Resize(40), CenterCrop(32)), size) == [Stage(40, size)]
    assert stages_of(view(Resize((20, 30)), CenterCrop(16), Resize((32, 32))), size) == [
        *(Stage((20, 30), (16, 16)), Stage(size, size))
    ]
    assert stages_of(view(CenterCrop(48), CenterCrop(32)), size) == [Stage(None, (48, 48)), Stage(None, size)]
    assert stages_of(usual_test_view((24, 40)), (24, 40)) == [Stage((24, 40), (24, 40))]
    assert stages_of(view(), size) == [Stage(None, size)]
    square = view(Resize(32))
    assert stages_of(square, size) == [Stage(32, size)]
    assert "keeps the shape of images" in cuts(square)
    assert "keeps the shape of images" in cuts(view())
    assert cuts(view(Resize(40), CenterCrop(32))) is None


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((PadCrop(32),), r"^preprocess: the graph has resize and center_crop, and the view 'test' more: padcrop$"),
        ((Resize(40), Resize((32, 32))), r"^preprocess: resize\(40\) leaves images of unlike shapes to Resize$"),
    ],
)
def test_views_that_the_graph_has_no_place_for(ops, message):
    with pytest.raises(RunError, match=message):
        stages_of(view(*ops), (32, 32))


def test_sizes_that_are_tried_have_room_for_a_cut(run, tmp_path):
    assert sizes_to_try(outgoing(run)) == [(8, 8), (19, 29), (33, 25), (6, 7)]
    text = SLA.replace("resize(11) | center_crop(8)", "center_crop(8) | center_crop((5, 6))")
    cut = run_of(trained(text, 3), tmp_path / "cut")
    assert sizes_to_try(outgoing(cut)) == [(8, 8), (19, 29), (33, 25)]
