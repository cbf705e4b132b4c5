"""Shards: what was packed comes back, in any number of processes; what is damaged or hostile is refused in a line."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load, save

from commands import done, manyview, one_line
from killed import assert_same_run, complete, kill_after
from manyview.data import BadImage, open_splits
from manyview.data.loader import Batches, stream
from manyview.data.mark import is_same, marks_of
from manyview.data.pack import PLAN
from manyview.data.shard_format import PACKING, digest_of
from manyview.data.shard_store import _make_room
from manyview.errors import DataError
from manyview.foundation.lock import alone_at
from manyview.load import data_of

COUNTS = {"train": 50, "test": 9}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Files of several sizes and formats, three classes; one that is no image, which is not known before it is read."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in COUNTS.items():
        for number in range(count):
            path = root / split / "abc"[number % 3] / f"{number:03d}.{('jpg', 'png')[number % 2]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (8 + number % 5, 9 + number % 3, 3)
            Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def packed(photos, tmp_path_factory):
    """The same in shards of a few images."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    done("data", "pack", "folder", out, f"data.root={photos}", "--shard-size", "12KB", "--workers", "2", "--quiet")
    return out


def opened(source, *overrides):
    spec, seed = data_of([f"data.source={source}", *overrides])
    return open_splits(spec, seed)


def of(folder, options=""):
    return opened(f"shards('{folder}'{options})")


def test_what_was_packed_comes_back(photos, packed):
    before, after = opened("folder", f"data.root={photos}"), of(packed, ", block=None")
    assert (after.classes, after.note) == (before.classes, before.note)
    assert all(is_same(mark, marks_of(after)[split]) for split, mark in marks_of(before).items())
    for split in ("train", "val", "test"):
        ours, theirs = getattr(after, split), getattr(before, split)
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert ours.index.tolist() == theirs.index.tolist()
        for position in range(len(ours)):
            assert ours.name(position) == str(Path(theirs.name(position)).relative_to(photos / theirs_split(split)))
            assert torch.equal(ours.read(position), theirs.read(position))
            assert ours.size_of(position) == theirs.size_of(position)


def theirs_split(split):
    return "train" if split == "val" else split  # held out of train


def test_without_blocks_a_run_sees_the_batches_of_the_folder(photos, packed):
    before, after = opened("folder", f"data.root={photos}"), of(packed, ", block=None")
    for number in range(6):
        one, two = (Batches(splits.train, 10, 4, seed=3)[number] for splits in (before, after))
        assert one.index.tolist() == two.index.tolist()
        assert one.labels.tolist() == two.labels.tolist()


def test_bytes_are_kept_and_any_tool_reads_them(photos, packed):
    found, labels = {}, {}
    for path in sorted(packed.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                content = tar.extractfile(member).read()
                (labels if kind == "cls" else found)[key] = content
    files = {path.read_bytes(): "abc".index(path.parent.name) for path in (photos / "train").rglob("*.*")}
    assert {found[key]: int(labels[key]) for key in found} == files
    assert len({*packed.glob("train-*.tar")}) > 4


def seen(rank, folder, start=0):
    """What the three workers of one of two processes read of two epochs: (epoch, numbers)."""
    os.cpu_count = lambda: 3
    batches = Batches(of(folder, ", block=4, mix=2").train, 4, 11, seed=1, rank=rank, world=2)
    return [(part.epoch, part.index.tolist()) for part in stream(batches, start, 22, "workers", 3)]


def test_three_workers_of_two_processes_see_each_image_once_an_epoch(packed):
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        ranks = [*pool.map(seen, (0, 1), (packed, packed))]
        late = [*pool.map(seen, (0, 1), (packed, packed), (15, 15))]
    index = of(packed).train.index.tolist()
    assert len(index) == 45  # 5 are held out; 44 fill 11 batches of 4
    for epoch in (0, 1):
        images = [number for rank in ranks for at, numbers in rank if at == epoch for number in numbers]
        assert len(images) == len({*images}) == 44
        assert {*images} < {*index}
    assert late == [rank[15:] for rank in ranks]  # begun in the middle of an epoch


def test_an_epoch_reads_blocks_one_after_another(packed):
    images = of(packed, ", block=4, mix=1").train
    batches = Batches(images, 1, len(images), seed=0)
    blocks = [images.images.blocks.of[images.positions[batches.positions(n)[1][0]]] for n in range(len(images))]
    assert sum(one != two for one, two in pairwise(blocks)) + 1 == len({*blocks})


@pytest.mark.slow(reason="a run is killed and resumed in processes of their own")
def test_a_run_on_shards_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    done(
        "data",
        "pack",
        "digits",
        tmp_path / "shards",
        "data.limit=192",
        "--shard-size",
        "100KB",
        "--workers",
        "0",
        "--quiet",
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
data: {{source: "shards('{tmp_path}/shards', block=8, mix=3)", val_fraction: 0, memory: 0, workers: 2, render: workers}}
views: {{a: {{from: image, make: "pad_crop(8, padding=1)"}}}}
branches: {{net: {{backbone: cresnet20, normalize: half}}}}
relations: [cross_entropy(logits(a))]
train: {{epochs: 4, batch_size: 16, keep: last, log_every: 1, checkpoint_every: 7 steps}}
"""
    )
    assert complete(tmp_path / "whole", recipe) == 0
    kill_after(tmp_path / "killed", 17, recipe)
    assert complete(tmp_path / "killed", recipe, "--resume") == 0
    shutil.copy(tmp_path / "killed/checkpoints/last.pt", tmp_path / "killed/checkpoints/best.pt")
    shutil.copy(tmp_path / "whole/checkpoints/last.pt", tmp_path / "whole/checkpoints/best.pt")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


# ---------------------------------------------------------------------------------------------------- from elsewhere


@pytest.fixture
def far(packed, tmp_path, monkeypatch):
    """The address of the same shards in fsspec's memory, and where they are kept."""
    monkeypatch.setenv("MANYVIEW_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.put(str(packed), "/far", recursive=True)
    yield "memory://far", tmp_path / "cache/shards"
    system.rm("/far", recursive=True)


def kept_in(folder):
    return [path for path in folder.glob("*") if path.suffix != ".lock"] if folder.exists() else []


def test_an_address_gives_what_the_folder_gives(packed, far):
    address, cache = far
    here, there = of(packed).train, of(address).train
    assert [there.name(at) for at in range(len(there))] == [here.name(at) for at in range(len(here))]
    assert all(torch.equal(there.read(at), here.read(at)) for at in range(len(here)))
    assert {path.stat().st_size for path in kept_in(cache)} <= {path.stat().st_size for path in packed.glob("*.tar")}
    assert len(kept_in(cache)) == len([*packed.glob("train-*.tar")])
    fsspec.filesystem("memory").store.pop("/far/train-00000.tar")
    again = of(packed).train
    assert torch.equal(there.read(0), again.read(0))  # of what is kept here nothing is asked for


def test_an_address_may_be_the_root(packed, far):
    here = of(packed).train
    for given in (("shards", "data.root=memory://far"), ("shards('far')", "data.root=memory://")):
        assert torch.equal(opened(*given).train.read(3), here.read(3))


def test_what_is_kept_is_bounded(packed, far):
    address, cache = far
    most = 2.5 * max(path.stat().st_size for path in packed.glob("*.tar"))
    here, there = of(packed).train, of(address, f", cache={most / 2**30}").train
    for at in np.random.default_rng(0).permutation(len(there)):
        assert torch.equal(there.read(at), here.read(at))
        assert 0 < sum(path.stat().st_size for path in kept_in(cache)) <= most
    shutil.rmtree(cache)
    there = of(address, ", cache=0").train
    assert all(torch.equal(there.read(at), here.read(at)) for at in range(len(here)))
    assert not kept_in(cache)


def test_room_is_made_while_others_rename_what_they_fetch(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(b"four")
        os.utime(tmp_path / f"{number}", (number, number))
    (tmp_path / "gone.7.part").symlink_to(tmp_path / "nowhere")  # listed, and then not there
    _make_room(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir() if path.exists()) == ["2"]


def test_a_shard_that_is_damaged_on_its_way_is_not_kept(packed, far):
    address, cache = far
    images = of(address).train
    store = fsspec.filesystem("memory").store
    name = images.images.files[images.images.table.shard[images.positions[0]]].name
    store[f"/far/{name}"].getbuffer()[700] ^= 1
    with pytest.raises(DataError, match=rf"memory://far/{name} is damaged: its checksum is not that of the desc"):
        images.read(0)
    assert not kept_in(cache)


def test_an_address_that_nobody_knows():
    for address in ("nowhere://x", "memory://not/there", "/not/there"):
        assert address in one_line(*manyview("data", "check", f"shards('{address}')"))


# -------------------------------------------------------------------------------------------------- packing, again


def test_a_pack_that_was_ended_goes_on(photos, packed, tmp_path, monkeypatch):
    from manyview.data import pack

    command = ("data", "pack", "folder", tmp_path / "out", f"data.root={photos}", "--shard-size", "12KB")
    write, asked = pack._Tasks._write, []

    def ends(self, *given):
        asked.append(given[1].name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return write(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(pack._Tasks, "_write", ends)
        assert manyview(*command, "--workers", "0")[0] == 130
    assert "it is not packed to its end" in one_line(*manyview("data", "check", f"shards('{tmp_path}/out')"))
    (tmp_path / "out" / f".{asked[2]}.7.tmp").write_bytes(b"torn")
    with alone_at(tmp_path / "out" / ".packing" / "plan.json"):
        told = one_line(*last_line(manyview(*command)))
    assert told == f"{tmp_path}/out is being packed by another process; let it end, or end it"
    torn = tmp_path / "out" / asked[1]
    torn.write_bytes(torn.read_bytes()[:-512])
    done(*command, "--workers", "0", "--quiet")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in packed.iterdir()
    }  # to the byte, whatever was there
    assert "is packed already" in done(*command)
    assert "packed in another way" in one_line(*last_line(manyview(*command, "--seed", "1")))


@pytest.mark.slow(reason="a command is killed in a process of its own")
def test_a_pack_that_was_killed_goes_on(photos, packed, tmp_path):
    """Without warning, its workers with it, as where memory runs out."""
    command = [sys.executable, "-m", "manyview", "data", "pack", "folder", tmp_path / "out", f"data.root={photos}"]
    command += ["--shard-size", "12KB", "--workers", "2", "--quiet"]
    process = subprocess.Popen([*map(str, command)], start_new_session=True)
    while not [*(tmp_path / "out").glob("*.tar")] and process.poll() is None:
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if (tmp_path / "out" / PACKING).exists():
        with alone_at(tmp_path / "out" / PACKING / PLAN):  # its workers, which have the lock too, take a moment to die
            pass
    done(*map(str, command[3:]))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in packed.iterdir()
    }


def test_what_is_gone_is_left_out_where_that_is_said(photos, tmp_path, monkeypatch):
    from manyview.data import pack

    whole = pack.content_of

    def gone(images, position):
        if images.labels[position] == 0 and position % 4 == 1:
            raise BadImage(f"{images.name(position)}: No such file or directory")
        return whole(images, position)

    monkeypatch.setattr(pack, "content_of", gone)
    command = (
        "data",
        "pack",
        "folder",
        tmp_path / "out",
        f"data.root={photos}",
        "--shard-size",
        "12KB",
        "--workers",
        "0",
    )
    told = one_line(*last_line(manyview(*command)))
    assert told.endswith("No such file or directory; repair it, or leave such out with data.on_bad_image=skip")
    shutil.rmtree(tmp_path / "out")
    code, _, err = manyview(*command, "data.on_bad_image=skip")
    lost = err.count("\n")
    assert (code, err.count("manyview: left out: /"), lost > 2) == (0, lost, True)
    images = of(tmp_path / "out").train.images
    assert len(images) + len(of(tmp_path / "out").test) == 59 - lost
    whole_index = opened("folder", f"data.root={photos}", "data.val_fraction=0").train
    assert [whole_index.name(at).endswith(images.name(n)) for n, at in enumerate(images.index)] == [True] * len(images)
    counts = np.bincount(images.table.shard)
    assert len({*counts}) > 1  # uneven, and each still seen once
    batches = Batches(images, 5, len(images) // 5, seed=0)
    order = np.concatenate([batches.positions(number)[1] for number in range(len(images) // 5)])
    assert len({*order}) == len(order)


def last_line(said):
    """Of a command that first told what it opened."""
    return said[0], "", said[2]


def test_a_folder_that_is_in_use_is_left_alone(photos, tmp_path):
    (tmp_path / "mine.txt").touch()
    told = one_line(*last_line(manyview("data", "pack", "folder", tmp_path, f"data.root={photos}")))
    assert told == f"{tmp_path} is not empty; shards need a folder of their own"
    assert "--shard-size 1: bytes, as 500MB" in one_line(
        *manyview("data", "pack", "digits", tmp_path / "x", "--shard-size", "1")
    )


def test_images_without_labels_and_of_other_sources(tmp_path):
    done("data", "pack", "digits", tmp_path / "whole", "--workers", "0", "--quiet")
    before, after = opened("digits"), of(tmp_path / "whole")
    assert after.note.startswith(before.note)
    assert all(torch.equal(after.test.read(at), before.test.read(at)) for at in range(0, 300, 17))
    assert after.train.name(5) == before.train.name(5)
    root = tmp_path / "bare"
    for number in range(7):
        (root / "train").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9 + number)).save(root / "train" / f"{number}.png")
    done("data", "pack", "folder", tmp_path / "out", f"data.root={root}", "--workers", "0", "--quiet")
    bare = of(tmp_path / "out")
    assert bare.train.labels.tolist() == [-1] * 7
    assert bare.classes == ()
    with tarfile.open(tmp_path / "out/train-00000.tar") as tar:
        assert {Path(name).suffix for name in tar.getnames()} == {".png"}


# ---------------------------------------------------------------------------------------------------------- hostile


def rewritten(change):
    """Changes the description."""

    def hurt(folder):
        path = folder / "shards.json"
        described = json.loads(path.read_text())
        path.write_text(json.dumps(change(described) or described))

    return hurt


def retabled(change):
    """Changes the table of train, with a checksum that is right."""

    def hurt(folder):
        table, path = folder / "train.table", folder / "shards.json"
        arrays = {name: array.copy() for name, array in load(table.read_bytes()).items()}
        change(arrays)
        table.write_bytes(save(arrays))
        described = json.loads(path.read_text())
        described["train"]["table"] |= {"bytes": table.stat().st_size, "digest": digest_of(table.read_bytes())}
        path.write_text(json.dumps(described))

    return hurt


def first(value):
    def change(array):
        array[0] = value

    return change


HOSTILE = {
    "path traversal": (rewritten(lambda d: d["train"]["shards"][0].update(name="../../etc/passwd")), "shards.0.name"),
    "absolute path": (rewritten(lambda d: d["train"]["table"].update(name="/etc/passwd")), "table.name"),
    "hidden file": (rewritten(lambda d: d["train"]["table"].update(name=".ssh")), "table.name"),
    "one file twice": (rewritten(lambda d: d["test"].update(table=d["train"]["table"])), "stands there twice"),
    "more keys": (rewritten(lambda d: d.update(run="rm")), "run: Extra inputs"),
    "newer": (rewritten(lambda d: d.update(version=9)), "version 9, which a newer manyview reads"),
    "no split": (rewritten(lambda d: d.pop("train") and None), "train: Field required"),
    "a list": (rewritten(lambda d: [1]), "no description"),
    "no JSON": (lambda f: (f / "shards.json").write_bytes(b"\xff{"), "damaged, or no JSON"),
    "deep JSON": (lambda f: (f / "shards.json").write_text("[" * 200_000), "damaged, or no JSON"),
    "large number": (rewritten(lambda d: d["train"].update(images=10**30)), "is of 50 images|no description"),
    "missing": (lambda f: (f / "train-00001.tar").unlink(), "train-00001.tar is missing"),
    "cut short": (lambda f: os.truncate(f / "train-00001.tar", 700), "damaged or not whole: it has 700 bytes"),
    "longer": (lambda f: os.truncate(f / "test.table", 10**6), "damaged or not whole"),
    "table damaged": (lambda f: flip(f / "train.table", 400), "train.table is damaged: its checksum"),
    "beyond": (retabled(lambda a: first(10**15)(a["offset"])), "beyond the end"),
    "before": (retabled(lambda a: first(-1)(a["offset"])), "beyond the end"),
    "bomb": (retabled(lambda a: first(2**60)(a["size"])), "has 1,152,921,504,606,846,976 bytes; at most"),
    "overflow": (retabled(lambda a: (first(2**63 - 1)(a["offset"]), first(2**20)(a["size"]))), "beyond the end"),
    "negative size": (retabled(lambda a: first(-5)(a["size"])), "has -5 bytes"),
    "other shard": (retabled(lambda a: first(10**6)(a["shard"])), "lies in shard 1000000"),
    "label": (retabled(lambda a: first(3)(a["label"])), "label 3 is none of the 3 classes"),
    "negative label": (retabled(lambda a: first(-2)(a["label"])), "label -2 is none of"),
    "numbers": (retabled(lambda a: first(a["index"][1])(a["index"])), "two images have one number"),
    "below 0": (retabled(lambda a: first(-1)(a["index"])), "has the number -1; they are 0 to"),
    "a number without end": (retabled(lambda a: first(2**62)(a["index"])), "has the number 4611686018427387904; they"),
    "names": (retabled(lambda a: first(-4)(a["ends"])), "names do not fill"),
    "one array less": (retabled(lambda a: a.pop("check")), "it holds ends, index"),
    "floats": (retabled(lambda a: a.update(check=a["check"].astype(np.float32))), "'check' is float32"),
    "two axes": (retabled(lambda a: a.update(shard=a["shard"][None])), "'shard' is int32 of 2 axes"),
}


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_damaged_or_hostile_is_one_line(packed, tmp_path, kind):
    hurt, told = HOSTILE[kind]
    shutil.copytree(packed, tmp_path / "shards")
    hurt(tmp_path / "shards")
    with pytest.raises(DataError, match=told) as refused:
        of(tmp_path / "shards")
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_damaged_image_is_named(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "shards")
    images = of(tmp_path / "shards", ", block=None").train.images
    file = images.files[images.table.shard[7]].name
    flip(tmp_path / "shards" / file, int(images.table.offset[7]) + 20)
    told = f"{images.name(7)}: {tmp_path}/shards/{file} is damaged there: the checksum is another"
    with pytest.raises(BadImage) as refused:
        of(tmp_path / "shards").train.images.read(7)
    assert str(refused.value) == told
    code, out, _ = manyview("data", "check", f"shards('{tmp_path}/shards')", "--workers", "0")
    assert code == 1
    assert f"unreadable: 1\n  {told}\n" in out


def test_what_is_asked_of_the_source(packed):
    for options, told in {
        "block=0": "block=0 must be at least 1",
        "mix=0": "mix=0 must be at least 1",
        "cache=-1": "cache=-1 must be GiB",
        "block='x'": "block='x' in 'shards' must be a whole number",
    }.items():
        with pytest.raises(DataError, match=told):
            of(packed, f", {options}")
    with pytest.raises(DataError, match="needs the address of its folder"):
        opened("shards")
    assert len(opened("shards", f"data.root={packed}").train) == 45
    assert len(opened(f"shards('{packed.name}')", f"data.root={packed.parent}").train) == 45
    assert len(opened(f"shards('{packed}')", "data.root=/elsewhere").train) == 45
    assert of(packed).note.endswith("; shuffled by blocks of 256, 32 at a time")
