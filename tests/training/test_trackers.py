"""Trackers: real ones, each offline, told the numbers of metrics.jsonl; skipped where a package is not installed."""

import importlib
import json
import os
import sys

import pytest
from accelerate import PartialState

from commands import contents, done, manyview, one_line
from manyview.errors import ManyviewWarning, RecipeError, RunError
from manyview.foundation.files import read_state
from manyview.load import load_recipe
from manyview.training.setup import set_up
from manyview.training.trackers import Trackers, check_trackers, start_trackers

TINY = ("train.batch_size=16", "train.optimizer.lr=0.1", "train.schedule=cosine()", "data.limit=60", "evaluate=[]")


def installed(name: str):
    return pytest.importorskip(name, reason=f"{name} is not installed; pip install 'manyview[track]'")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """mlflow's, whose tables take seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def alone(tmp_path, monkeypatch, store):
    """A folder for all that a tracker writes, and no words from outside on where that may go."""
    for variable in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    PartialState()
    return tmp_path


def by_mlflow(folder, identity):
    client = importlib.import_module("mlflow").MlflowClient()
    run = client.get_run(identity)
    history = {name: client.get_metric_history(identity, name) for name in run.data.metrics}
    told = {name: {each.step: each.value for each in values} for name, values in history.items()}
    return told, run.data.params


def by_trackio(folder, identity):
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    told: dict = {}
    for line in storage.get_logs("manyview", identity):
        for name, value in line.items():
            if isinstance(value, float):
                told.setdefault(name, {})[line["step"]] = value
    return told, storage.get_run_config("manyview", identity)


def by_wandb(folder, identity):
    """Read back from the files that `wandb sync` would send."""
    importlib.import_module("wandb").teardown()  # its own process writes on behind finish()
    kinds = importlib.import_module("wandb.proto.wandb_internal_pb2")
    told: dict = {}
    config: dict = {}
    for path in sorted(folder.glob(f"**/wandb/offline-run-*/run-{identity}.wandb")):
        for data in leveldb_records(path.read_bytes()):
            record = kinds.Record()
            record.ParseFromString(data)
            values = plain(record.history.item)
            for name, value in values.items():
                told.setdefault(name, {})[values["_step"]] = value
            config |= plain([*record.config.update, *record.run.config.update])
    return told, config


def plain(items) -> dict:
    return {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items}


def leveldb_records(data: bytes):
    """Records of LevelDB's log format behind wandb's header of 7 bytes: blocks of 32 KiB of crc, length, type, part."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or last
            yield whole
            whole = b""


READ = {"mlflow": by_mlflow, "trackio": by_trackio, "wandb": by_wandb}


@pytest.mark.slow(reason="the tracker's own import and store")
@pytest.mark.parametrize("name", READ)
def test_a_tracked_run_is_stopped_and_goes_on(alone, name):
    installed(name)
    run = alone / "runs" / "first"
    words = ("train", "quickstart", *TINY, "train.steps=6", "train.log_every=1", f"train.track=[{name}]", "--quiet")
    assert done(*words, "--out", run) == ""
    identity = json.loads((run / "trackers.json").read_text())[name]
    state = read_state(run / "checkpoints" / "last.pt")
    assert state["run"]["number"] == 6

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told, config = READ[name](run, identity)
    for line in lines:
        for key, value in {"loss": line.get("loss"), "lr": line.get("lr"), **line.get("terms", {})}.items():
            if value is not None:
                assert told[key if key in ("loss", "lr") else f"terms/{key}"][line["step"]] == pytest.approx(value)
        if "val" in line:
            assert told["val/top1"][line["step"]] == pytest.approx(line["val"]["top1"])
    assert str(config["train.batch_size"]) == "16"
    assert not list(run.glob("events.out*")), "TensorBoard was not asked for"

    # as if it had been killed behind step 6: the same tracked run goes on
    (run / "result.json").unlink()
    assert done("train", "--resume", run, "--quiet") == ""
    assert json.loads((run / "trackers.json").read_text()) == {name: identity}


@pytest.mark.slow(reason="the tracker's own import and store")
@pytest.mark.parametrize("name", READ)
def test_a_resumed_tracker_takes_the_next_steps_into_the_same_run(alone, name, monkeypatch):
    installed(name)
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        place = alone / f"from {start}"  # wandb's folders of a run are told apart by the second in their names alone
        place.mkdir()
        monkeypatch.setenv("WANDB_DIR", str(place))
        trackers = start_trackers([name], alone, start, {"train.lr": 0.5, "views.a": None})
        for step in steps:
            trackers.log({"loss": 10.0 * step, "terms/x": float(step)}, step)
        trackers.finish()
        assert trackers.running, "nothing failed"
    told, config = READ[name](alone, json.loads((alone / "trackers.json").read_text())[name])
    assert {step: told["loss"][step] for step in (1, 2, 3, 4)} == {1: 10, 2: 20, 3: 30, 4: 40}
    assert {step: told["terms/x"][step] for step in (1, 2, 3, 4)} == {1: 1, 2: 2, 3: 3, 4: 4}
    assert float(config["train.lr"]) == 0.5


def test_wandb_stays_offline(alone):
    wandb = installed("wandb")
    trackers = start_trackers(["wandb"], alone, 0, {})
    assert wandb.run.offline
    assert wandb.run.project == "manyview"
    trackers.finish()
    assert list(alone.glob("wandb/offline-run-*"))


# ----------------------------------------------------------------------------------------------------- what needs none


def test_tensorboard_alone_by_default_or_nothing_at_all(tmp_path):
    assert load_recipe("quickstart").train.track == ("tensorboard",)
    for track, expected in (("[tensorboard]", 1), ("[]", 0)):
        run = tmp_path / str(expected)
        done("train", "quickstart", *TINY, "train.steps=2", f"train.track={track}", "--out", run, "--quiet")
        assert len([*run.glob("events.out*")]) == expected
        assert (run / "metrics.jsonl").is_file()
        assert not (run / "trackers.json").exists()
    # where measures go changes no number, so a run may go on with other trackers
    (run / "result.json").unlink()
    done("train", "--resume", run, "train.track=[tensorboard]", "--quiet")
    assert len([*run.glob("events.out*")]) == 1


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ("[wandbs]", "unknown tracker 'wandbs'; did you mean 'wandb'? trackers: mlflow, tensorboard, trackio, wandb"),
        ("[tensorboard, tensorboard]", "tensorboard stands there twice"),
        ("wandb", "expected a list, [one, two], got 'wandb'; write 'train.track=[wandb]'"),
        ("[3]", "expected text, got 3"),
    ],
)
def test_mistakes_in_the_list_are_told(tmp_path, track, message):
    told = one_line(*manyview("train", "quickstart", f"train.track={track}", "--out", tmp_path / "run"))
    place = "train.track.0" if track == "[3]" else "train.track"
    assert told == f"recipe quickstart: {place}: {message}"
    assert contents(tmp_path) == {}


def test_what_is_not_installed_is_told_before_training(monkeypatch, tmp_path):
    monkeypatch.setattr("manyview.training.trackers.find_spec", lambda name: None if name == "mlflow" else name)
    recipe = load_recipe("quickstart", "train.track=[mlflow]")
    message = r"^train.track: mlflow is not installed; pip install 'manyview\[track\]', or mlflow alone$"
    with pytest.raises(RecipeError, match=message):
        set_up(recipe)
    with pytest.raises(RecipeError, match=message):
        check_trackers(["tensorboard", "mlflow"])
    assert load_recipe("quickstart", "train.track=[mlflow]") == recipe, "to read a run needs none"


class Failing:
    """A tracker whose server goes away."""

    def log(self, values, step):
        raise ConnectionError("the server is down")

    def finish(self):
        raise AssertionError("never asked")


def test_a_tracker_that_fails_ends_no_run():
    taken = []

    class Taking:
        def log(self, values, step):
            taken.append((step, values))

        def finish(self):
            taken.append("finished")

    trackers = Trackers({"far": Failing(), "near": Taking()})
    with pytest.warns(
        ManyviewWarning, match=r"^far takes no more measures, which metrics.jsonl still has: the server is"
    ):
        trackers.log({"loss": 1.0}, 3)
    trackers.log({"loss": 2.0}, 4)
    trackers.finish()
    assert taken == [(3, {"loss": 1.0}), (4, {"loss": 2.0}), "finished"]


def test_what_others_print_while_a_tracker_logs_is_not_lost(capsys):
    """stdout is the whole process's: silenced where trackers begin and end alone."""

    class Printing:
        def log(self, values, step):
            print("of another thread")

        def finish(self):
            print("View your run at …")

    trackers = Trackers({"near": Printing()})
    before = sys.stdout
    trackers.log({"loss": 1.0}, 1)
    trackers.finish()
    assert sys.stdout is before
    assert capsys.readouterr().out == "of another thread\n"


def test_a_damaged_list_of_trackers(tmp_path):
    (tmp_path / "trackers.json").write_text("{")
    with pytest.raises(RunError, match=r"trackers.json is damaged"):
        start_trackers(["mlflow"], tmp_path)
