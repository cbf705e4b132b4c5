"""A run whose weights are shared out over two processes: the weights it ends with, its checkpoints, what is refused."""

import json
from functools import partialmethod
from pathlib import Path

import pytest
import torch

from commands import done
from manyview import parse_recipe
from manyview.branches.weights import open_weights
from manyview.errors import ManyviewWarning, RunError
from manyview.foundation.files import read_state, write_state
from manyview.foundation.group import join
from manyview.foundation.put_shards import put_shards
from manyview.training.run import Run
from manyview.training.train import train
from processes import on_two

pytestmark = pytest.mark.slow(reason="runs on two processes")
RECIPE = """
seed: 3
data: {source: digits, limit: 96}
views: {a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}, b: {like: a}}
branches:
  net:
    backbone: "vit_tiny_patch16_224(img_size=8, patch_size=4, depth=2, embed_dim=32, num_heads=2)"
    normalize: half
    z: mlp(h, 16, 8)
  teacher: ema(net, momentum=0.9)
relations:
  - cross_entropy(logits(a))
  - info_nce(z(a), toward=teacher.z(b), queue=16, temperature=0.2)
  - swav(z(a), z(b), prototypes=4, freeze=2)
train: {steps: 10, batch_size: 8, log_every: 5, checkpoint_every: 5 steps, schedule: constant(), ema: 0.9, clip: 1.0,
        optimizer: "adamw(lr=0.003, weight_decay=0.01)"}
"""
SHARP = (
    *("train.steps=4", "train.accumulate=2", "train.optimizer=sam(sgd(lr=0.02, momentum=0.9), rho=0.05)"),
    "relations=['cross_entropy(logits(a))', 'info_nce(z(a), toward=teacher.z(b), queue=16, temperature=0.2)']",
)
LOW = ("train.steps=4", "train.precision=bf16", "train.checkpointing=true", "train.clip=null")
CONVOLVED = ("train.steps=3", "branches.net.backbone=test_resnet", "train.optimizer=sgd(lr=0.01)")
COMPILED = ("train.steps=3", "train.optimizer=sgd(lr=0.02)", "train.compile=true")
CASES = {"sam": SHARP, "bf16": LOW, "batchnorm": CONVOLVED, "compiled": COMPILED}
REFUSED = ("sgdp(lr=0.01)", "novograd(lr=0.01)", "cadamw(lr=0.01)")


def made(*overrides, shard=False):
    return parse_recipe(RECIPE, *overrides, f"train.shard={str(shard).lower()}")


def half(folder, shard):
    """A run of 10 updates that was killed after 5."""
    recipe = made("train.steps=5", shard=shard)
    train(recipe, folder, quiet=True)
    return recipe


def worker(rank, folder):
    # what is traced is what meets shards; no compiler is asked for
    torch.nn.Module.compile = partialmethod(torch.nn.Module.compile, backend="eager")
    for name, overrides in {"whole": (), **CASES}.items():
        train(made(*overrides), f"{folder}/{name}-whole", quiet=True)
        train(made(*overrides, shard=True), f"{folder}/{name}", quiet=True)
    half(f"{folder}/begun-on-two", shard=True)
    told = []
    for optimizer in REFUSED:
        with pytest.raises(RunError) as caught:
            train(made(f"train.optimizer={optimizer}", shard=True), f"{folder}/refused", quiet=True)
        told.append(str(caught.value))
    with pytest.raises(RunError) as caught:
        train(made(shard=True), f"{folder}/refused", quiet=True, backbone=torch.nn.Flatten())
    told.append(str(caught.value))
    if rank == 0:
        (Run(folder).folder / "told.json").write_text(json.dumps(told))


def going_on(rank, folder, name):
    train(made(shard=True), f"{folder}/{name}", quiet=True, resume=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    on_two(worker, str(folder))
    return folder


def unfinished(folder, **settings):
    (folder / "result.json").unlink()
    (folder / "recipe.yaml").write_text(made(**settings).to_yaml())


def state(folder):
    return read_state(folder / "checkpoints" / "last.pt")


def furthest(one, two):
    """The largest difference of any weight or buffer."""
    assert one["step"].keys() == two["step"].keys()
    return max(float((value.double() - two["step"][name].double()).abs().max()) for name, value in one["step"].items())


def test_the_weights_are_those_of_whole_ones_and_of_one_process(two, tmp_path):
    train(made(), tmp_path / "one", quiet=True)
    shared, whole, one = state(two / "whole"), state(two / "whole-whole"), state(tmp_path / "one")
    assert furthest(shared, whole) < 1e-4
    assert furthest(shared, one) < 1e-4
    assert furthest(shared, {"step": {name: value * 0 for name, value in one["step"].items()}}) > 0.1
    measured = [json.loads((folder / "result.json").read_text()) for folder in (two / "whole", tmp_path / "one")]
    assert measured[0]["eval"] == pytest.approx(measured[1]["eval"], rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_sam_low_precision_recomputing_batchnorm_and_compiled_ones_are_as_of_whole_weights(two, case):
    assert furthest(state(two / case), state(two / f"{case}-whole")) < 1e-5


def test_the_checkpoint_holds_parts_and_is_read_as_if_it_were_whole(two):
    folder = two / "whole" / "checkpoints"
    raw = torch.load(folder / "last.pt", weights_only=True)
    parts = sorted(path.name for path in (folder / raw["shards"]["folder"]).iterdir())
    assert parts == [f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)]
    assert not any(".weight" in name for name in raw["step"])
    sizes = [path.stat().st_size for path in (folder / raw["shards"]["folder"]).iterdir()]
    assert max(sizes) < 0.7 * sum(sizes)  # neither has all
    saved = state(two / "whole")
    assert saved["optimizer"]["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_a_run_that_was_begun_on_two_goes_on_on_one_and_back(two, tmp_path):
    unbroken = state(two / "whole")
    folder = two / "begun-on-two"
    unfinished(folder, shard=True)
    on_two(going_on, str(two), folder.name)
    assert furthest(state(folder), unbroken) == 0

    half(two / "begun-on-one", shard=False)
    unfinished(two / "begun-on-one")
    on_two(going_on, str(two), "begun-on-one")
    assert furthest(state(two / "begun-on-one"), unbroken) < 1e-4
    unfinished(folder, shard=True)
    longer = made("train.steps=12", shard=True)
    (folder / "recipe.yaml").write_text(longer.to_yaml())
    with pytest.warns(ManyviewWarning, match=r"^train.shard: there is one process, which holds all there is$"):
        train(longer, folder, quiet=True, resume=True)
    assert not (torch.load(folder / "checkpoints" / "last.pt", weights_only=True)).get("shards")
    assert state(folder)["run"]["number"] == 12


def saving_is_cut_short(rank, folder):
    """Twice before `last.pt` names what was written: the run would go on from what it names."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    join()
    mesh, path = init_device_mesh("cpu", (2,)), Path(folder) / "last.pt"
    for number in (20, 40, 40):
        tensor = distribute_tensor(torch.full((4, 2), float(number)), mesh, [Shard(0)])
        rest = put_shards(path, {"step": {"weight": tensor}}, number)
        if rank == 0 and number == 20:
            write_state(path, rest)


def test_what_the_checkpoint_names_outlives_saves_that_were_cut_short(tmp_path):
    on_two(saving_is_cut_short, str(tmp_path))
    assert (read_state(tmp_path / "last.pt")["step"]["weight"] == 20).all()
    assert len([*tmp_path.glob("last.shards-*")]) == 2  # and of what was cut short nothing piles up


def test_it_is_taken_out_as_plain_weights(two, tmp_path):
    done("export", two / "whole", tmp_path / "exported")
    held = open_weights(two / "whole")
    exported = open_weights(tmp_path / "exported")
    assert held.state
    for name, value in held.state.items():
        assert torch.equal(exported.state[name], value), name
    step = Run(two / "whole").step(Run(two / "whole").recipe())
    assert step.predict(torch.zeros(2, 3, 8, 8))["logits"].isfinite().all()


def test_what_cannot_be_shared_out_is_refused_in_a_line(two):
    *optimizers, given = json.loads((two / "told.json").read_text())
    for name, told in zip(REFUSED, optimizers, strict=True):
        assert told.startswith(f"train.shard: {name.partition('(')[0]} does not work on weights that are shared out")
        assert "\n" not in told
    assert given.startswith("train.shard: a network that was given from Python stays whole")
    assert not (two / "refused").exists()


def test_shards_that_are_lost_or_cut_short_are_told(two, tmp_path):
    folder = two / "sam" / "checkpoints"
    raw = torch.load(folder / "last.pt", weights_only=True)
    shards = folder / raw["shards"]["folder"]
    one, other = sorted(shards.iterdir())
    kept = one.read_bytes()
    one.write_bytes(kept[:-5] + bytes([kept[-5] ^ 1]) + kept[-4:])  # a bit of a weight
    with pytest.raises(RunError, match="is damaged: its checksums are not those"):
        read_state(folder / "last.pt")
    one.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(RunError, match="is damaged"):
        read_state(folder / "last.pt")
    one.unlink()
    with pytest.raises(RunError, match=r"is damaged: it lacks .*, or parts of it"):
        read_state(folder / "last.pt")
    shards.rename(tmp_path / "away")
    with pytest.raises(RunError, match="where its weights lie, is not there"):
        read_state(folder / "last.pt")
    torch.save(
        {**raw, "shards": {**raw["shards"], "folder": "../../whole/checkpoints/last.shards-10"}}, folder / "last.pt"
    )
    with pytest.raises(RunError, match="names no folder of shards beside it"):
        read_state(folder / "last.pt")
    assert other.name != one.name
