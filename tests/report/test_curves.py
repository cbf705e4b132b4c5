"""Metrics as curves: what is read, and what stays where there are too many points."""

import json
import math

from manyview.report.curves import MOST_NAMES, MOST_POINTS, read_curves, thinned


def test_lines_become_curves_by_nested_names(tmp_path):
    lines = [
        {"step": 1, "epoch": 0.5, "loss": 2.0, "terms": {"cross_entropy": 2.0}, "lr": 0.1},
        {"step": 2, "epoch": 1.0, "loss": None, "terms": {"cross_entropy": 1.5}},
        {"step": 2, "epoch": 1.0, "val": {"top1": 40.0}},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "epo')
    found = read_curves(path)
    assert found.points["loss"] == [(0.5, 2.0), (1.0, None)]
    assert found.named("terms/") == {"cross_entropy": [(0.5, 2.0), (1.0, 1.5)]}
    assert found.named("val/") == {"top1": [(1.0, 40.0)]}
    assert (found.step, found.epoch, found.cut) == (2, 1.0, False)


def test_what_is_no_measure_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    bad = ["[]", "7", '{"step": 1}', '{"epoch": "x", "step": 1, "a": 1}', "[" * 100_000, '{"epoch": NaN, "step": 1}']
    odd = '{"step": 4, "epoch": 2, "a": "text", "b": true, "c": NaN, "d": {"e": {"f": {"g": {"h": {"i": 1}}}}}, "j": 1}'
    huge = [f'{{"step": 1, "epoch": {10**400}, "a": 1}}', f'{{"step": 5, "epoch": 3, "c": {10**400}}}']
    path.write_text("\n".join([*bad, odd, *huge]) + "\n")
    assert read_curves(path).points == {"c": [(2.0, None), (3.0, None)], "j": [(2.0, 1)]}
    path.write_text(json.dumps({"step": 1, "epoch": 1, **{f"n{at}": at for at in range(MOST_NAMES + 5)}}))
    many = read_curves(path)
    assert len(many.points) == MOST_NAMES
    assert many.cut
    assert read_curves(tmp_path / "nosuch").points == {}


def test_no_peak_and_no_gap_is_lost_where_points_are_thinned():
    points = [(float(at), math.sin(at / 500)) for at in range(20_000)]
    points[7_000] = (7_000.0, 99.0)
    points[13_000] = (13_000.0, -99.0)
    points[16_000:17_000] = [(float(at), None) for at in range(16_000, 17_000)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS + 2
    assert {points[0], points[-1], (7_000.0, 99.0), (13_000.0, -99.0)} <= {*kept}
    assert any(value is None for _, value in kept)
    assert kept == sorted(kept, key=lambda point: point[0])
    assert thinned(points[:100]) == points[:100]
