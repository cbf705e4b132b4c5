"""A folder for the Hugging Face hub: weights as timm loads them, else ONNX, the recipe, and a model card."""

from __future__ import annotations

from pathlib import Path

from manyview.export.beside import file_beside, name_for_timm
from manyview.export.card import RECIPE, Card, comparison_of, model_card, shareable
from manyview.export.onnx import FILE, IN, write_onnx
from manyview.export.outgoing import Outgoing
from manyview.export.timm import no_place, write_timm
from manyview.foundation.files import write_text

WITH_TIMM = """\
import timm
{register}from PIL import Image

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval(){hub}
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
{answer} = model(transform(Image.open("image.jpg").convert("RGB"))[None])"""
REGISTER = 'import sys; sys.path.insert(0, "FOLDER"); import {name}  # which registers it with timm\n'
UNLIKE_RGB = """\
import timm
{register}import torch

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval(){hub}
{answer} = model(torch.zeros(1, {shape}))  # pixels in [0, 1], less the mean, divided by the std of config.json"""
WITH_ONNX = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/{file}")
pixels = np.zeros((1, {shape}), np.float32)  # {values}
{answer} = session.run(None, {{"{input}": pixels}})[0]"""


def write_hub(leaving: Outgoing, folder: Path, out: Path) -> list[str]:
    """Writes weights, recipe and card into a folder that will be `out`; returns lines to print. Raises RunError."""
    why = no_place(leaving)
    lines = write_timm(leaving, folder, out) if why is None else [f"{why}; what lies here is ONNX"]
    lines += [] if why is None else write_onnx(leaving, folder, out)
    run = leaving.run
    result = run.finished() or {}
    library, usage = ("timm", _with_timm(leaving)) if why is None else ("onnx", _with_onnx(leaving))
    card = Card(library, usage, leaving.licence, leaving.command, result, comparison_of(run.folder))
    write_text(folder / RECIPE, shareable(leaving.recipe).to_yaml())
    write_text(folder / "README.md", model_card(leaving, card))
    told = "" if result else "; the run is not finished, so nothing measured stands in it"
    return [*lines, f"wrote {out / 'README.md'}, the model card{told}", f"upload it with hf upload USER/NAME {out}"]


def _with_timm(leaving: Outgoing) -> str:
    beside = file_beside(leaving.branch) is not None
    register = REGISTER.format(name=name_for_timm(leaving.branch)) if beside else ""
    hub = "" if beside else '  # of the hub: "hf-hub:USER/NAME"'
    text = WITH_TIMM if leaving.channels == 3 else UNLIKE_RGB
    shape = ", ".join(map(str, (leaving.channels, *(leaving.size or ("height", "width")))))
    answer = "scores" if leaving.classes else "features"
    return text.format(register=register, hub=hub, answer=answer, shape=shape)


def _with_onnx(leaving: Outgoing) -> str:
    height, width = leaving.sized()
    return WITH_ONNX.format(
        file=FILE,
        shape=f"{leaving.channels}, {height}, {width}",
        values="normalised as model.json says",
        input=IN,
        answer="scores" if leaving.classes else "features",
    )


__all__ = ["write_hub"]
