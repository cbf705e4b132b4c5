"""The self-test: it has every relation, finds what differs, and says what a run will wait for."""

import io
import json

import pytest
from rich.console import Console

from commands import manyview
from manyview.load import load_recipe
from manyview.relations import RELATIONS
from manyview.selftest.alike import DDP, FSDP, Compared, compare_with_one
from manyview.selftest.cases import CASES
from manyview.selftest.resumed import kill_and_resume
from manyview.selftest.selftest import Report
from manyview.selftest.speed import Speed, bottleneck, speeds

DISK = Speed("disk, read", 200.0, 50.0, "MB/s", "a file")
SLOW = Speed("decode", 40.0, 100.0, "images/s", "photos")
STEP = Speed("step", 100.0, 100.0, "images/s", "64 images")


def test_every_relation_is_among_the_cases():
    assert {line.partition("(")[0] for lines in CASES.values() for line in lines} == set(RELATIONS)


def test_what_holds_a_run_up_is_what_there_is_least_of():
    assert bottleneck([DISK, STEP]) == "the step itself: images come as fast as it takes them"
    assert bottleneck([DISK, SLOW, STEP]) == "decode: 40 images/s, and the step would take 100"


def test_a_report_tells_what_differs_and_leaves_out_what_cannot_be_had():
    compared = [
        Compared("dino", DDP, gradient=1e-7),
        Compared("augself", DDP, value=0.2, gradient=1e-8),
        Compared("adamw", DDP),
        Compared("kron", FSDP, note="refused"),
    ]
    report = Report(2, compared, [DISK, STEP])
    assert [each.what for each in report.differs] == ["augself"]
    assert report.as_json()["differs"] == [f"augself, {DDP}"]
    assert json.loads(json.dumps(report.as_json()))["speeds"][0]["margin"] == 4
    console = Console(width=120, record=True, file=io.StringIO())
    report.show(console)
    lines = console.export_text().splitlines()
    assert any(line.startswith("augself") and line.endswith("DIFFERS") for line in map(str.rstrip, lines))
    assert f"{DDP}: the same for adamw" in map(str.rstrip, lines)
    assert f"{FSDP}: refused: kron" in map(str.rstrip, lines)


def test_one_process_is_nothing_to_compare():
    code, _, err = manyview("selftest", "--processes", "1")
    assert code == 2
    assert "--processes: 2 to 64 can be compared with one, got 1" in err


@pytest.mark.slow(reason="times a step for some seconds")
def test_speeds_are_measured_on_photos_where_there_are_no_images(tmp_path):
    recipe = load_recipe("quickstart", "data.source=folder", f"data.root={tmp_path}", "train.batch_size=4")
    found = {each.what: each for each in speeds(recipe, tmp_path)}
    assert list(found) == ["disk, read", "decode", "render", "disk, write", "step"]
    assert all(each.rate > 0 and each.need > 0 for each in found.values())
    assert found["decode"].of == "photos of 375x500, 1 of data.workers"


@pytest.mark.slow(reason="a run that is killed in a process of its own, and two more")
def test_a_killed_run_is_resumed_to_the_bit():
    found = kill_and_resume()
    assert found.note == ""
    assert found.state == 0


@pytest.mark.slow(reason="every relation and optimiser on two processes")
def test_two_processes_are_one_for_every_relation_stream_and_optimiser():
    found = compare_with_one(2, shared=True)
    assert [each for each in found if not each.same] == []
    for how in (DDP, FSDP):
        told = {each.what for each in found if each.how == how and not each.note}
        assert set(CASES) <= told
        assert {"adamw", "sgd", "lamb", "lars", "lion"} <= told
    assert "kron" in {each.what for each in found if each.how == FSDP and each.note == "refused"}
