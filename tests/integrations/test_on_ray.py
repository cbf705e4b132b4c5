"""A comparison on a Ray cluster of two nodes, one of which is killed in the middle: bit for bit as on one machine."""

import json
import os
import time

import pytest
import torch

from manyview import parse_recipe
from manyview.compare.compare import compare
from manyview.errors import RecipeError, RunError
from manyview.foundation.files import read_state
from manyview.integrations.on_ray import Cluster, Share

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is an extra: pip install 'manyview[ray]'")
pytestmark = pytest.mark.slow(reason="a cluster of two nodes")
RECIPE = """
data: {source: digits, limit: 128}
views: {a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}, b: {like: a}}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {steps: 40, batch_size: 16, checkpoint_every: 5 steps, evaluate_every: 50, track: [],
        optimizer: "adamw(lr=0.003, weight_decay=0.01)"}
"""


@pytest.fixture(scope="module")
def nodes():
    """A cluster of this process's node, which takes no runs, and one that does; a test may add and remove others."""
    import ray

    os.environ["OMP_NUM_THREADS"] = "1"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # here as there, for the bits
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    first = made.add_node(num_cpus=2)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made, first
    ray.shutdown()
    made.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "one.yaml").write_text(RECIPE)
    (folder / "two.yaml").write_text(RECIPE.replace("logits(b))", "logits(b), smoothing=0.1)"))
    return [str(folder / "one.yaml"), str(folder / "two.yaml")]


def test_a_comparison_whose_node_is_killed_is_that_of_one_machine(nodes, recipes, tmp_path):
    made, first = nodes
    begin, killed = Cluster("ray").training, []

    def begun(recipe, folder):
        waited = begin(recipe, folder)

        def then():
            if not killed:  # once a run has a checkpoint, its node is gone, and another one comes
                while not any((tmp_path / "there").glob("runs/*/*/checkpoints/last.pt")):
                    time.sleep(0.05)
                killed.extend((tmp_path / "there").glob("runs/*/*/result.json"))
                made.remove_node(first, allow_graceful=False)
                made.add_node(num_cpus=2)
                killed.append("the node")
            return waited()

        return then

    there = compare(recipes, tmp_path / "there", seeds=2, quiet=True, begin=begun)
    assert killed == ["the node"]  # before any run was finished
    here = compare(recipes, tmp_path / "here", seeds=2, quiet=True)
    for run in sorted((tmp_path / "here").glob("runs/*/*")):
        one, other = (read_state(tmp_path / where / run.relative_to(tmp_path / "here") / "checkpoints" / "last.pt")
                      for where in ("here", "there"))  # fmt: skip
        assert one["step"].keys() == other["step"].keys()
        assert all(torch.equal(value, other["step"][name]) for name, value in one["step"].items()), run
        results = [json.loads((tmp_path / where / run.relative_to(tmp_path / "here") / "result.json").read_text())
                   for where in ("here", "there")]  # fmt: skip
        assert results[0]["eval"] == results[1]["eval"]
    assert there["table"] == here["table"]


def test_runs_are_judged_side_by_side_and_mistakes_come_back_in_a_line(nodes, recipes, tmp_path):
    cluster = Cluster("ray", Share(cpus=0.5))
    result = cluster.training(parse_recipe(RECIPE, "train.steps=4"), tmp_path / "run")()
    assert result["steps"] == 4
    waited = [cluster.judging(tmp_path / "run", protocols, "test") for protocols in (["classify"], ["knn(k=5)"])]
    found = [each() for each in waited]
    assert next(iter(found[0].values()))["top1"] == pytest.approx(result["eval"]["top1"], abs=0.5)
    with pytest.raises(RunError, match="was made by another recipe: "):
        cluster.training(parse_recipe(RECIPE, "train.steps=5"), tmp_path / "run")()
    with pytest.raises(RecipeError, match="unknown protocol"):
        cluster.judging(tmp_path / "run", ["knnn"], "test")()


def test_a_share_that_no_machine_has_is_told(nodes):
    with pytest.raises(
        RunError, match=r"^no machine of the cluster has 64 CPUs and 0 GPUs for a run; the largest has 2"
    ):
        Cluster("ray", Share(cpus=64))


def test_an_address_that_is_none_is_told():
    with pytest.raises(RunError, match=r"^--on spark: write ray, or ray://HOST:PORT$"):
        Cluster("spark")
