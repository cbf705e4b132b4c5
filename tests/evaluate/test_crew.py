"""Several processes judge as one does: each image once, by any of them, to the same bits; and failures reach all."""

import numpy as np
import pytest
import torch

from manyview.data.once import Once
from manyview.errors import DataError, RunError
from manyview.evaluate.crew import Crew, led
from manyview.evaluate.evaluate import evaluate
from manyview.evaluate.knn import Knn
from processes import on_two
from subjects import TIED, Broken, features_of, pictures, trained


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9])
def test_every_part_is_some_process_s_and_all_look_equally_often(count, world):
    plans = [Once(pictures(count), np.arange(count), 2, rank=rank, world=world) for rank in range(world)]
    assert len({len(plan) for plan in plans}) == 1
    parts = -(-count // 2)
    read = [plan[number].kept.tolist() for number in range(len(plans[0])) for plan in plans]
    assert [position for part in read[:parts] for position in part] == list(range(count))
    assert all(each == read[parts - 1] for each in read[parts:])


def judged(features, split="test"):
    outputs = features.of(split)
    return {name: each[:] for name, each in outputs.tensors().items()} | {
        "knn": torch.tensor(evaluate(features, split, [Knn(k=3)])["knn"])
    }


def worker(rank, folder):
    torch.distributed.init_process_group("gloo")
    crew = Crew(rank, 2, torch.device("cpu"))
    step, test, train = trained(TIED), pictures(600, seed=5), pictures(300, seed=6)
    branch = step.evaluated

    def share(test, work, **options):
        def features(post=None):
            return features_of(step, test, train, crew=crew, post=post, **options)

        def help(task):
            crew.alike(branch.state_dict().values())
            features().help(task)

        def shared(post):
            return work(features(lambda task: (post(task), crew.alike(branch.state_dict().values()))))

        return led(crew, shared, help)

    if rank:
        branch.backbone.register_forward_hook(lambda *seen: looked.append(len(seen[2])))
        for name, value in branch.state_dict().items():
            if "running" in name:  # as after a step: each process's own
                value += 1
    looked = []
    alone = judged(features_of(step, test, train)) if rank == 0 else {}
    for options in ({}, {"memory": 0}, {"workers": 2}):
        together = share(test, judged, **options)
        assert (together is None) == bool(rank)
        for name, value in alone.items():
            assert torch.equal(value, together[name]), (name, options)
    assert not rank or looked == 3 * [256, 88, 44]  # of 600 the second part and, uncounted, the last; of 300 the last

    skipped = []
    bad = Broken(test, bad={3, 300, 301})
    found = share(bad, judged, skipped=skipped)
    if rank == 0:
        assert len(found["labels"]) == 597
        assert skipped == [f"picture {number}: broken" for number in (3, 300, 301)]

    def refused(features):
        with pytest.raises(DataError, match="picture 300: broken"):
            features.of("test")
        return judged(features_of(step, test, train))["knn"]

    found = share(Broken(test, bad={300, 520}), refused)  # 300 is the other's to read
    assert rank or torch.equal(found, alone["knn"])
    error = DataError if rank == 0 else RunError
    with pytest.raises(error, match="picture 3: broken" if rank == 0 else "^the first process could not go on"):
        share(Broken(test, bad={3}), judged)


@pytest.mark.slow(reason="two processes")
def test_two_processes_judge_as_one(tmp_path):
    on_two(worker, str(tmp_path))
