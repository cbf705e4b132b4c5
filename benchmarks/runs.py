"""How long `manyview runs` takes over many runs, as a user waits for it:  python benchmarks/runs.py [--runs 1000]

Makes folders of the files that finished runs have, lists them in processes of their own, the first time and again, and
removes them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from manyview.load import load_recipe


def make_run(folder: Path, text: str, number: int) -> None:
    """The files of a finished run, with a metrics file of 200 lines."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(text.replace("seed: 0", f"seed: {number}", 1))
    (folder / "splits.json").write_text(json.dumps({"classes": [], "note": "made"}))
    line = {"step": 1, "epoch": 1.0, "loss": 1.0, "val": {"top1": 50.0}}
    (folder / "metrics.jsonl").write_text((json.dumps(line) + "\n") * 200)
    result = {"eval": {"top1": 50 + number / 100}, "eval_split": "test", "epochs": 1.0, "seconds": 60.0}
    (folder / "result.json").write_text(json.dumps(result))


def main() -> None:
    """Prints the seconds, of the wall and of the processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    args = parser.parse_args()
    text = load_recipe("tied_cifar10").to_yaml()
    with tempfile.TemporaryDirectory() as made:
        top = Path(made) / "runs"
        for number in range(args.runs):
            make_run(top / f"group-{number // 100}" / f"run-{number}", text, number)
        environment = {**os.environ, "MANYVIEW_CACHE": str(Path(made) / "kept")}
        for what in ("first", "again", "again", "again"):
            began, before = time.perf_counter(), os.times()
            command = [sys.executable, "-m", "manyview", "runs", str(top), "--sort", "best"]
            printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            after = os.times()
            spent = after.children_user + after.children_system - before.children_user - before.children_system
            took, listed = time.perf_counter() - began, len(printed.splitlines()) - 1
            print(f"{what}: {took:.2f} s, {spent:.2f} s of the processor, {listed} runs")


if __name__ == "__main__":
    main()
