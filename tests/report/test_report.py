"""A page about runs: what stands in it, what is told where something is not there, and that texts stay texts."""

import base64
import gzip
import json
import re
import shutil

import pytest

from commands import done, manyview, one_line
from manyview.errors import ManyviewError
from manyview.report.page import Wishes, find, page
from manyview.report.protocols import evaluations
from manyview.report.told import tell
from pages_of_runs import Read, charts

pytest.importorskip("plotly", reason="plotly is not installed")

from manyview.report.render import html, wordy


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    """The page of the run with a classifier, as the command writes it."""
    out = tmp_path_factory.mktemp("page") / "tied.html"
    told = done("report", runs["tied"], "--out", out)
    assert re.fullmatch(rf"wrote {re.escape(str(out))}, 2\.\d MB\n", told)
    return out.read_text(encoding="utf-8")


def test_a_run_has_all_its_parts(runs, written):
    shown = Read(written)
    result = json.loads((runs["tied"] / "result.json").read_text())
    assert [each["id"] for each in shown.named("section")] == [
        f"run-{part}" for part in ("overview", "graph", "samples", "training", "results", "answers", "cost", "again")
    ]
    drawn = charts(written)
    assert {"run-loss", "run-val", "run-lr", "run-std", "run-rank", "run-confusion", "run-reliability"} <= set(drawn)
    for wanted in (
        f"{result['eval']['top1']:.2f} %",
        f"{result['eval']['knn']:.2f} %",
        f"{result['waiting']:.1f} % of the time",
        "manyview train recipe.yaml --out OUT",
        result["versions"]["torch"],
        "relation cross_entropy(logits(a), logits(b))",
        "Memory and FLOPs were not measured",
    ):
        assert wanted in shown.text, wanted
    assert "kind='mse'" in shown.text or 'kind="mse"' in shown.text
    assert (runs["tied"] / "recipe.yaml").read_text().split() == shown.text.partition("recipe.yaml title:")[2].join(
        ["title:", ""]
    ).partition(" Made by manyview report")[0].split()


def test_curves_are_those_of_the_metrics(runs, written):
    lines = [json.loads(line) for line in (runs["tied"] / "metrics.jsonl").read_text().splitlines()]
    loss, own, _ = charts(written)["run-loss"]["data"]
    assert (loss["name"], own["name"]) == ("loss", "cross_entropy")
    assert loss["y"] == [line["loss"] for line in lines if "loss" in line]
    assert own["x"] == [line["epoch"] for line in lines if "loss" in line]
    top1 = charts(written)["run-val"]["data"][0]
    assert top1["y"] == [line["val"]["top1"] for line in lines if "val" in line]


def test_answers_are_the_runs_own_on_validation(runs, written):
    result = json.loads((runs["tied"] / "result.json").read_text())
    (matrix,) = charts(written)["run-confusion"]["data"]
    counts = [[cell[2] for cell in row] for row in matrix["customdata"]]
    total = sum(map(sum, counts))
    assert 100 * sum(row[at] for at, row in enumerate(counts)) / total == pytest.approx(result["val"]["top1"])
    bars = charts(written)["run-reliability"]["data"][0]
    assert sum(count for count, _ in bars["customdata"]) == total
    right = sum(count * share for (count, _), share in zip(bars["customdata"], bars["y"], strict=True) if count)
    assert 100 * right / total == pytest.approx(result["val"]["top1"])
    assert f"to {total} images of val" in Read(written).text


def test_samples_are_what_the_network_saw(runs, written, tmp_path):
    shown = Read(written)
    views = [each for each in shown.named("img") if str(each["alt"]).startswith("view ")]
    assert len(views) == 3 * 3 * 2  # images, epochs, views
    assert all(str(each["src"]).startswith("data:image/png;base64,") for each in views)
    captions = {str(each["alt"]).partition(":")[0] for each in views}
    assert captions == {f"view {view} in epoch {epoch}" for view in "ab" for epoch in range(3)}


def test_without_a_classifier_neighbours_answer(runs):
    text = html(page(find([runs["siamese"]]), Wishes()))
    drawn = charts(text)
    assert {"run-confusion", "run-std", "run-rank"} <= set(drawn)
    assert "run-reliability" not in drawn
    assert "Answers of the 5 nearest training images" in Read(text).text
    result = json.loads((runs["siamese"] / "result.json").read_text())
    (matrix,) = drawn["run-confusion"]["data"]
    counts = [[cell[2] for cell in row] for row in matrix["customdata"]]
    right = 100 * sum(row[at] for at, row in enumerate(counts)) / sum(map(sum, counts))
    assert right == pytest.approx(result["val"]["knn"])


def test_several_runs_stand_beside_each_other(runs):
    made = page(find([runs["tied"], runs["siamese"]]), Wishes(samples=0))
    text = html(made)
    names = {trace["name"] for trace in charts(text)["side-0"]["data"]}
    assert names == {folder.as_posix() for folder in runs.values()}
    assert {"run-0-loss", "run-1-loss"} <= set(charts(text))
    assert [each.title for each in made.sections] == ["Side by side", *(f.as_posix() for f in runs.values())]
    below = find([runs["tied"].parent])
    assert sorted(folder for folder, _, _ in below.runs) == sorted(runs.values())


def test_the_page_asks_nothing_of_others_and_lets_nothing_else_run(written):
    shown = Read(written)
    (policy,) = (each["content"] for each in shown.named("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src" not in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    places = [each[key] for _, each in shown.tags for key in ("src", "href", "action", "data", "poster") if key in each]
    assert places
    assert all(re.match("data:|#", str(place)) for place in places)
    kinds = [attributes.get("type") for attributes, _ in shown.scripts]
    assert sorted(map(str, kinds)) == ["None", "application/json", "text/plain"]
    (folded,) = (script for attributes, script in shown.scripts if attributes.get("id") == "plotly")
    assert gzip.decompress(base64.b64decode(folded)).startswith(b"/**\n* plotly.js")
    assert len(written.encode()) < 5e6


def test_everything_has_a_name_for_who_does_not_see_it(written):
    shown = Read(written)
    tags = [tag for tag, _ in shown.tags]
    assert [tags.count(tag) for tag in ("h1", "header", "nav", "main", "footer")] == [1] * 5
    assert all(each.get("alt") for each in shown.named("img"))
    plots = [each for each in shown.named("div") if "data-chart" in each]
    assert all(each["role"] == "img" and len(str(each["aria-label"])) > 30 for each in plots)
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {f"{each['data-chart']}-numbers" for each in plots} <= set(ids)
    targets = {str(each["href"])[1:] for each in shown.named("a")}
    assert targets <= set(ids)
    assert {attributes.get("lang") for tag, attributes in shown.tags if tag == "html"} == {"en"}


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}\u2028"


def test_what_strangers_wrote_stays_text(runs, tmp_path):
    folder = tmp_path / "evil"
    shutil.copytree(runs["tied"], folder)
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("title: two views of digits", f"title: {json.dumps(EVIL)}"))
    result = json.loads((folder / "result.json").read_text())
    result["eval"][EVIL] = 1.0
    result["notes"] = {EVIL: EVIL}
    result["data"] = result["device"] = result["git"] = EVIL
    result["versions"][EVIL] = EVIL
    table = {"columns": [EVIL, EVIL], "rows": [[EVIL, EVIL], ["x", 1.0]]}
    ops = {"columns": ["op", "strength", "cosine", "score"], "rows": [[EVIL, EVIL, 0.5, 0.5]]}
    result["evaluations"] = {
        f"{EVIL} on test": {"measures": {EVIL: 1.0}, "note": EVIL, "tables": {EVIL: table}},
        "invariance() on test": {"measures": {"": 0.5}, "tables": {"ops": ops}},
    }
    (folder / "result.json").write_text(json.dumps(result))
    with (folder / "metrics.jsonl").open("a") as file:
        for epoch in (4, 5):
            file.write(json.dumps({"step": 30, "epoch": epoch, "terms": {EVIL: 1.0}, "val": {EVIL: epoch}}) + "\n")
    splits = json.loads((folder / "splits.json").read_text())
    (folder / "splits.json").write_text(json.dumps({**splits, "classes": [EVIL + str(at) for at in range(10)]}))
    text = html(page(find([folder]), Wishes()))
    shown = Read(text)
    assert "alert(1)" in shown.text
    assert "{{7*7}}" in shown.text
    assert [dict(attributes).get("type") for attributes, _ in shown.scripts].count(None) == 1
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)
    assert all(str(each["src"]).startswith("data:image/") for each in shown.named("img"))
    for chart in charts(text).values():
        for trace in chart["data"]:
            assert "<img" not in json.dumps(trace).replace("<extra></extra>", "").replace("<br>", "")


def test_what_a_run_does_not_have_is_told(runs, tmp_path):
    folder = tmp_path / "begun"
    shutil.copytree(runs["tied"], folder, ignore=shutil.ignore_patterns("result.json", "checkpoints", "features"))
    shown = Read(html(page(find([folder]), Wishes())))
    for told in (
        "not finished",
        "Not finished: results come at the end.",
        "has no checkpoint yet",
        "Not finished: times come at the end.",
        "Not finished: versions are noted at the end.",
    ):
        assert told in shown.text, told
    (folder / "metrics.jsonl").unlink()
    assert "nothing was logged yet" in Read(html(page(find([folder]), Wishes()))).text
    moved = tmp_path / "moved"
    shutil.copytree(runs["tied"], moved)
    recipe = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(
        recipe.replace("source: digits", "source: folder").replace("  root: null", "  root: gone")
    )
    shown = Read(html(page(find([moved]), Wishes())))
    assert "No samples:" in shown.text
    assert "No answers:" in shown.text
    assert "relation cross_entropy(logits(a), logits(b))" in shown.text  # of what needs no data nothing is lost


CLASSES = '{"classes": ["a"], "train": 7}'


def test_damaged_files_are_one_line(runs, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(runs["tied"], folder, ignore=shutil.ignore_patterns("checkpoints"))
    odd = '{"eval": [1], "val": 3, "versions": "x", "evaluations": {"a": 1, "b": {"tables": {"c": {"columns": 1}}}}}'
    (folder / "result.json").write_text(odd)
    tell(folder, "odd")
    html(page(find([folder]), Wishes(samples=0)))
    out = tmp_path / "page.html"
    for name, text in (
        ("splits.json", "[1]"),
        ("splits.json", "{}"),
        ("splits.json", CLASSES),
        ("result.json", "[]"),
        ("result.json", "{"),
    ):
        (folder / name).write_text(text)
        assert f"{name} is damaged" in one_line(*manyview("report", folder, "--out", out))
        assert not out.exists()


def test_of_several_runs_a_damaged_one_is_told_and_the_others_shown(runs, tmp_path):
    shutil.copytree(runs["tied"], tmp_path / "b", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(runs["tied"], tmp_path / "a", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "a" / "recipe.yaml").write_text("views: [")
    shown = Read(html(page(find([tmp_path]), Wishes(samples=0, answers=False))))
    assert "Not readable" in shown.text
    assert "a/recipe.yaml: line 1: not YAML" in shown.text
    assert "Learning rate" in shown.text
    assert "No image of the stream" not in shown.text  # no samples were asked for
    (tmp_path / "b" / "recipe.yaml").write_text("views: [")
    with pytest.raises(ManyviewError, match=r"a/recipe\.yaml: line 1"):
        page(find([tmp_path]), Wishes())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nosuch"], "nosuch is not there; give a folder with runs in it"),
        (["."], ". is neither a run (it has no recipe.yaml) nor a comparison nor a folder of runs"),
        ([], "missing argument"),
        (["data.root=x"], "name a run's folder, several, or a comparison's"),
        ([".", "train.epochs=3"], "override 'train.epochs=3': of a run nothing can be changed but data.root,"),
        ([".", "--split", "trian"], "--split: unknown split 'trian'"),
        ([".", "--out", "page.pdf"], "--out: 'page.pdf' does not say what to write; end it in .html, as in page.html"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in words else ["--out", "page.html"]
    assert told in one_line(*manyview("report", *words, *out))
    assert list(tmp_path.iterdir()) == []


def test_charts_are_what_plotly_takes(written, compared):
    from plotly.graph_objects import Figure

    text = html(page(find([compared]), Wishes(samples=0, answers=False)))
    for drawn in [*charts(written).values(), *charts(text).values()]:
        Figure(drawn)  # raises for what it does not know
    assert "Not asked for." in Read(text).text


def test_what_draws_the_page_may_be_missing(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("manyview.cli.report.find_spec", lambda name: None if name == "plotly" else object())
    told = one_line(*manyview("report", runs["tied"], "--out", tmp_path / "page.html"))
    assert told == "not installed, and the page is drawn by it: plotly; pip install 'manyview[report]'"


def test_what_was_evaluated_afterwards_is_drawn_in_its_units():
    corrupted = {"columns": ["corruption", "1", "2", "mean"], "rows": [["fog", 50.0, 40.0, 45.0], ["mean", 50, 40, 45]]}
    ops = {"columns": ["op", "strength", "cosine", "score", "agreement"], "rows": [["flip", "1", 0.9, 0.5, 80.0]]}
    numbers = {"columns": ["number", "R²", "right, %", "most frequent answer, %"], "rows": [["flip", 0.25, 62.5, 50.0]]}
    bins = {"columns": ["confidence between", "images", "mean confidence", "accuracy"]}
    bins["rows"] = [["0.000 to 0.500", 0, None, None], ["0.500 to 1.000", 8, 0.75, 0.5]]
    kept = {
        "robustness(images=4) on test": {"measures": {"": 45.0, "clean": 60.0}, "tables": {"accuracy": corrupted}},
        "invariance() on test": {"measures": {"": 0.5, "agreement": 80.0}, "tables": {"ops": ops}},
        "awareness() on val": {"measures": {"": 0.25, "flip_right": 62.5}, "tables": {"numbers": numbers}},
        "calibration() on test": {"measures": {"": 0.25}, "tables": {"as it is": bins, "floor": numbers}},
        "classify() on test": {"measures": {"top1": 60.0}},
    }
    found = evaluations("run", {"evaluations": kept})
    assert [section.title for section in found[:3]] == ["robustness on test", "invariance on test", "awareness on val"]
    rows = [
        block.table.rows for section in found for block in section.blocks if getattr(block, "title", "") == "Measures"
    ]
    assert rows == [
        (("robustness", "45.00 %"), ("clean", "60.00 %")),
        (("invariance", "0.500"), ("agreement", "80.00 %")),
        (("awareness", "0.250"), ("flip right", "62.50 %")),
        (("calibration", "0.250"),),
        (("top-1", "60.00 %"),),
    ]
    drawn = {block.key: block for section in found for block in section.blocks if block.kind == "chart"}
    assert [*drawn] == ["run-eval-0-chart", "run-eval-1-chart", "run-eval-2-chart", "run-eval-3-chart-0"]
    bars, one, two, clean = drawn["run-eval-0-chart"].traces
    assert (bars["x"], one["x"], two["x"], clean["x"]) == ([45.0, 45.0], [50.0, 50.0], [40.0, 40.0], [60.0, 60.0])
    assert drawn["run-eval-1-chart"].traces[1]["x"] == [0.8]
    assert drawn["run-eval-3-chart-0"].traces[0]["y"] == [None, 0.5]
    assert [block.title for block in found[3].blocks if block.kind == "rows"] == ["Measures", "floor"]


def test_numbers_stand_right_and_words_left():
    from manyview.evaluate.report import Table

    table = Table(("name", "best", "n", "empty"), (("a", "top-1 3 %", "3", None), ("b", None, 4, None)))
    assert wordy(table) == [True, True, False, False]


def test_a_comparison_has_seeds_differences_intervals_and_cost(compared):
    found = json.loads((compared / "compare.json").read_text())
    text = html(page(find([compared]), Wishes(samples=0)))
    shown, drawn = Read(text), charts(text)
    top1 = found["table"]["top1"]
    seeds, means = drawn["compared-seeds"]["data"]
    assert seeds["x"] == [value for name in ("tied", "one") for value in top1[name]["values"].values()]
    assert seeds["y"] == [0, 0, 1, 1]
    assert means["x"] == pytest.approx([top1[name]["mean"] for name in ("tied", "one")])
    t, bootstrap, apart = drawn["compared-differences"]["data"]
    assert t["x"] == [*top1["one"]["difference"]["t"], None]
    assert bootstrap["x"] == [*top1["one"]["difference"]["bootstrap"], None]
    assert apart["x"] == [None, top1["one"]["difference"]["mean"]]
    for remark in found["remarks"]:
        assert " ".join(remark.split()) in shown.text
    assert found["command"] in shown.text
    assert "-1.25 -3.50 to +1.00 2.5 4.5 0 of 2 50 % –" in shown.text
    assert "TFLOPs" in shown.text
    assert f"{found['recipes'][0]['parameters']:,}" in shown.text
    assert {trace["name"] for trace in drawn["side-0"]["data"]} == {"tied", "one"}
    assert len(drawn["side-0"]["data"]) == 4
    titles = [each["id"] for each in shown.named("section")]
    assert {"comparison", "comparison-cost", "side", "run-0", "run-2", "comparison-again"} <= set(titles)


def test_a_comparison_of_strangers_is_checked(compared, tmp_path):
    folder = tmp_path / "evil"
    shutil.copytree(compared, folder)
    whole = json.loads((folder / "compare.json").read_text())
    renamed = json.loads(json.dumps(whole).replace('"one"', json.dumps(EVIL)))
    renamed |= {"command": EVIL, "data": EVIL, "remarks": [EVIL]}
    renamed["failed"] = [{"recipe": EVIL, "seed": 0, "why": EVIL}]
    elsewhere = "../../elsewhere", "/", "\0", "x" * 5000  # leads out of it, or nowhere: no run of this comparison
    renamed["recipes"][0]["runs"] = {str(seed): {"folder": place} for seed, place in enumerate(elsewhere)}
    (folder / "compare.json").write_text(json.dumps(renamed))
    about = find([folder])
    assert [group for _, _, group in about.runs] == [EVIL, EVIL]
    shown = Read(html(page(about, Wishes(samples=0))))
    assert "alert(1)" in shown.text
    assert [attributes.get("type") for attributes, _ in shown.scripts].count(None) == 1
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)
    out = tmp_path / "page.html"
    for bad in ({**whole, "table": 3}, {**whole, "recipes": [{"name": 1}]}, []):
        (folder / "compare.json").write_text(json.dumps(bad))
        assert "compare.json is damaged" in one_line(*manyview("report", folder, "--out", out))
    assert "report it alone" in one_line(*manyview("report", compared, folder, "--out", out))
    assert not out.exists()
