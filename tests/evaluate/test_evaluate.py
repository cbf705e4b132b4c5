"""Evaluation: accuracies against a slow reference, no image dropped, the kNN bank, aggregated measures, protocols."""

import contextlib
import math

import numpy as np
import pytest
import torch

from manyview import parse_recipe
from manyview.data import ArrayImages, BadImage, Splits, hold_out
from manyview.errors import DataError, RecipeError
from manyview.evaluate.accuracy import Classify, accuracy
from manyview.evaluate.evaluate import check_model, check_protocols, evaluate, while_training
from manyview.evaluate.features import Features, collect
from manyview.evaluate.knn import Knn
from manyview.evaluate.linear import WEIGHTS, Linear, fit_linear, linear_probe
from manyview.evaluate.model import StepModel
from manyview.evaluate.protocols import measure_names, parse_protocols
from manyview.evaluate.scores import scores_of
from manyview.functional import aggregate, orbit
from manyview.show.display import table_row
from manyview.step import Step
from subjects import SLA, TIED, UNLABELED, Broken, features_of, pictures, trained

NAMES = tuple("abcdefghij")


def slow_accuracy(scores, labels):
    """Row by row; a tie never occurs in the scores drawn here."""
    rows, classes = len(scores), len(scores[0])
    right, among, loss, per_class = 0, 0, 0.0, {}
    for row, label in zip(scores, labels, strict=True):
        order = sorted(range(classes), key=lambda c: -row[c])
        right += order[0] == label
        among += label in order[:5]
        per_class.setdefault(label, []).append(order[0] == label)
        loss += math.log(sum(math.exp(value) for value in row)) - row[label]
    return {
        "top1": 100 * right / rows,
        "top5": 100 * among / rows,
        "class_mean": 100 * sum(sum(hits) / len(hits) for hits in per_class.values()) / len(per_class),
        "loss": loss / rows,
    }


@pytest.mark.parametrize(
    ("classes", "present"),
    [(10, range(10)), (10, [1, 3, 8]), (10, [4]), (3, range(3)), (2, [1]), (5, range(5)), (40, range(40))],
)
@pytest.mark.parametrize("rows", [1, 37])
def test_accuracy_against_a_slow_reference(classes, present, rows):
    generator = torch.Generator().manual_seed(classes * 100 + rows)
    labels = torch.tensor(list(present))[torch.randint(len(present), (rows,), generator=generator)]
    scores = torch.randn(rows, classes, generator=generator)
    scores[torch.arange(rows), labels] += 1  # some of them right
    expected = slow_accuracy(scores.tolist(), labels.tolist())
    assert accuracy(scores, labels) == pytest.approx(expected, rel=1e-5)


def test_shares_are_whole_counts():
    """16 of 100 are 16 %, not 15.999999642372131."""
    labels = torch.zeros(100, dtype=torch.int64)
    for right in (16, 29, 57):
        measures = accuracy(torch.eye(7)[[0] * right + [1] * (100 - right)], labels)
        assert (measures["top1"], measures["top5"]) == (right, 100)


@pytest.mark.parametrize("classes", [3, 8, 40])
def test_of_equal_scores_the_first_class_ranks_higher(classes):
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randint(3, (200, classes), generator=generator).float()
    labels = torch.randint(classes, (200,), generator=generator)
    order = np.argsort(-scores.numpy(), axis=1, kind="stable")
    place = (order == labels.numpy()[:, None]).argmax(axis=1)
    measures = accuracy(scores, labels)
    assert measures["top1"] == 100 * (place == 0).sum() / 200
    assert measures["top5"] == 100 * (place < 5).sum() / 200


def test_scores_that_are_no_numbers_are_wrong():
    scores = torch.tensor([[1.0, 0.0, 0.0], [math.nan, 0.0, 0.0], [0.0, math.nan, 0.0], [-math.inf, 1.0, 0.0]])
    measures = accuracy(scores, torch.tensor([0, 0, 0, 1]))
    assert (measures["top1"], measures["top5"]) == (50, 50)


def test_class_mean_weighs_classes_alike():
    labels = torch.tensor([0] * 9 + [2])
    scores = torch.eye(4)[[0] * 9 + [1]]
    measures = accuracy(scores, labels)
    assert measures["top1"] == pytest.approx(90)
    assert measures["class_mean"] == pytest.approx(50)  # of the two classes that occur


# ------------------------------------------------------------------------------------------------- collect


@pytest.mark.parametrize("batch_size", [1, 7, 16, 23, 24, 256])
def test_no_image_is_dropped_or_moved(batch_size):
    step, images = trained(TIED), pictures(23)
    outputs = collect(StepModel(step), images, batch_size=batch_size)
    alone = [step.predict(images.read(i)[None]) for i in range(23)]
    assert outputs.labels.tolist() == images.labels.tolist()
    assert outputs.features.shape == (23, 64)
    torch.testing.assert_close(outputs.features, torch.cat([one["h"] for one in alone]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.logits, torch.cat([one["logits"] for one in alone]), rtol=1e-4, atol=1e-5)
    assert outputs.aggregated is None


def test_evaluation_changes_nothing():
    step, images = trained(TIED), pictures(23)
    step.train()
    before = {key: value.clone() for key, value in step.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(2)
    torch.manual_seed(5)
    first = evaluate(features_of(step, images), "test", [Classify(), Knn(k=3)])
    assert torch.equal(torch.rand(2), drawn)
    assert step.training
    assert all(torch.equal(value, before[key]) for key, value in step.state_dict().items())
    assert evaluate(features_of(step, images), "test", [Classify(), Knn(k=3)]) == first


def test_the_test_view_is_what_evaluation_looks_at():
    step, images = trained(TIED), pictures(9)
    net = step.main
    with torch.no_grad():
        pixels = step.test_pixels(images.pixels)
        assert pixels.shape == (9, 3, 12, 12)
        expected = net.backbone((pixels - 0.5) / 0.5)
    torch.testing.assert_close(collect(StepModel(step), images).features, expected, rtol=1e-4, atol=1e-5)


def test_progress_reaches_the_end():
    seen = []
    collect(
        StepModel(trained(TIED)), pictures(23), batch_size=8, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(8, 23), (16, 23), (23, 23)]


def test_images_that_cannot_be_read():
    step, images = trained(TIED), pictures(17)
    broken = Broken(images, bad={3, 16})
    hint = "repair it, or leave such images out with data.on_bad_image=skip"
    with pytest.raises(BadImage, match=rf"^picture 3: broken; {hint}$"):
        collect(StepModel(step), broken)
    skipped = []
    outputs = collect(StepModel(step), broken, batch_size=8, skipped=skipped)  # the last batch has only a bad one
    kept = [i for i in range(17) if i not in (3, 16)]
    assert skipped == ["picture 3: broken", "picture 16: broken"]
    assert outputs.labels.tolist() == images.labels[kept].tolist()
    torch.testing.assert_close(outputs.features, collect(StepModel(step), images).features[kept], rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match=r"^none of 2 images could be read"):
        collect(StepModel(step), Broken(pictures(2), bad={0, 1}), skipped=[])


# ------------------------------------------------------------------------------------------------- evaluate


def test_evaluate_is_accuracy_of_all_scores():
    step, images = trained(TIED), pictures(300)
    outputs = collect(StepModel(step), images)
    assert evaluate(features_of(step, images), "test", [Classify()]) == accuracy(outputs.logits, outputs.labels)


def test_fewer_than_five_classes():
    measures = evaluate(features_of(trained(TIED, classes=3), pictures(20, classes=3)), "test", [Classify()])
    assert "top5" not in measures  # which would be 100 of any model
    assert measures["top1"] < 100


def test_knn_bank_is_the_training_images():
    """Each test image is in the bank with a label of its own: k=1 finds that label."""
    step = trained(TIED)
    test = pictures(20, seed=3)
    mirrored = ArrayImages(test.pixels, (test.labels + 1) % 10, test.index, split="train")
    assert evaluate(features_of(step, test, test), "test", [Knn(k=1)]) == {"knn": 100.0}
    assert evaluate(features_of(step, test, mirrored), "test", [Knn(k=1)]) == {"knn": 0.0}


def test_knn_against_a_slow_reference():
    step, test, bank = trained(TIED), pictures(25, seed=3), pictures(40, seed=4)
    queries, stored = (
        collect(StepModel(step), test).features.double().numpy(),
        collect(StepModel(step), bank).features.double().numpy(),
    )
    right = 0
    for query, label in zip(queries, test.labels, strict=True):
        cosines = stored @ query / np.linalg.norm(stored, axis=1) / np.linalg.norm(query)
        votes = np.zeros(10)
        for near in np.argsort(-cosines)[:7]:
            votes[bank.labels[near]] += np.exp(cosines[near] / 0.05)
        right += votes.argmax() == label
    assert evaluate(features_of(step, test, bank), "test", [Knn(k=7, temperature=0.05)])["knn"] == pytest.approx(
        100 * right / 25
    )


def test_without_a_classifier_only_features_are_measured():
    step, images = trained(UNLABELED), pictures(12)
    assert collect(StepModel(step), images).logits is None
    assert set(evaluate(features_of(step, images, images), "test", [Classify(), Knn(k=2)])) == {"knn"}


def test_aggregated_measures_of_sla():
    step, images = trained(SLA), pictures(30)
    measures = evaluate(features_of(step, images), "test", [Classify()])
    names = ("top1", "top5", "class_mean", "loss")
    assert list(measures) == [*names, *(f"aggregated_{name}" for name in names)]

    net, labels = step.main, torch.from_numpy(images.labels)
    with torch.no_grad():
        turned = orbit(images.pixels, "rotation").flatten(0, 1).float() / 255
        joint = net.heads["joint"](net.backbone((turned - 0.5) / 0.5))  # [30*4, 10*4]
    upright = joint[::4].view(30, 10, 4)[:, :, 0]
    mean = torch.stack([joint.view(30, 4, 10, 4)[:, t, :, t] for t in range(4)]).mean(dim=0)
    torch.testing.assert_close(mean, aggregate(joint, 4))
    expected = accuracy(upright, labels) | {f"aggregated_{k}": v for k, v in accuracy(mean, labels).items()}
    assert measures == pytest.approx(expected, rel=1e-4)
    assert measures["loss"] != pytest.approx(measures["aggregated_loss"], rel=1e-3)


# ------------------------------------------------------------------------------------------------- protocols


def test_protocols_are_parsed():
    assert parse_protocols(["classify()", "knn(k=20)", "knn(5, temperature=0.2)", "knn"]) == [
        Classify(),
        Knn(20, 0.1),
        Knn(5, 0.2),
        Knn(200, 0.1),
    ]
    assert parse_protocols(["linear", "linear_probe()", "linear('class_mean')"]) == [
        Linear("top1"),
        Linear("top1"),
        Linear("class_mean"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "knm(k=3)",
            r"0: unknown protocol 'knm'; did you mean 'knn'\? protocols: .*knn, linear",
        ),
        ("knn(n=3)", r"^evaluate.0: knn: unknown argument 'n'"),
        ("knn(k=0)", r"^evaluate.0: knn\(k=0\): k must be a whole number of at least 1, got 0$"),
        ("knn(k='3')", r"k must be a whole number of at least 1, got '3'$"),
        ("knn(k=True)", r"k must be a whole number of at least 1, got True$"),
        ("knn(temperature=0)", r"temperature must be positive, got 0$"),
        ("knn(temperature='warm')", r"temperature must be .*'warm'"),
        ("linear(metric=top2)", r"metric"),
        ("linear(metric='top2')", r"unknown metric 'top2'; did you mean 'top1'\? metrics: class_mean, top1$"),
        ("linear_probe(weight=1)", r"^evaluate.0: linear_probe: unknown argument 'weight'"),
        ("classify(3)", r"^evaluate.0: classify\(3\): too many positional arguments"),
    ],
)
def test_protocols_that_are_refused(text, message):
    with pytest.raises(RecipeError, match=message) as caught:
        parse_protocols([text])
    assert "\n" not in str(caught.value)


def splits_of(train, val=None, test=None):
    return Splits(train, val, test, tuple("abcdefghij"), "note")


def test_more_neighbours_than_images():
    """All are asked, and it is told."""
    step, bank, test = trained(TIED), pictures(53, seed=4), pictures(20)
    bank.labels[:3] = -1
    check_protocols([Knn(k=51)], splits_of(bank, val=bank))
    known = features_of(step, test, bank)
    assert evaluate(known, "test", [Knn(k=50)]) == {"knn": pytest.approx(evaluate(known, "test", [Knn(51)])["knn"])}
    report = Knn(k=200).measure(known, "test")
    assert report.measures == {"": evaluate(known, "test", [Knn(k=50)])["knn"], "k": 50}
    assert report.note == "knn asks k=50 neighbours, not 200: no more training images have a label"
    assert table_row("knn_k", 50.0) == ["kNN k", "50"]


def test_neighbours_of_dead_features_are_counted():
    step, images = trained(TIED), pictures(20)
    step.main.backbone.register_forward_hook(lambda module, inputs, features: 0 * features)
    report = Knn(k=3).measure(features_of(step, images, images), "test")
    assert report.measures == {"": 0.0}
    assert report.note == (
        "20 of 20 images have no neighbours, for their features are 0 or not finite: wrong; "
        "20 of 20 training images are nobody's neighbours, likewise"
    )


def test_collapsed_features_are_ties():
    step, images = trained(TIED), pictures(20)
    step.main.backbone.register_forward_hook(lambda module, inputs, features: 0 * features + 1)
    report = Knn(k=3).measure(features_of(step, images, images), "test")
    assert report.note == "20 of 20 answers are ties, where the class that comes first is taken"


def test_a_probe_without_images_to_hold_out():
    """With one image a class nothing can be chosen: scikit-learn's penalty is taken, and told."""
    bank, other = pictures(10), pictures(30, seed=4)
    bank.labels[:] = np.arange(10)
    check_protocols([Linear()], splits_of(bank, test=other))
    known = features_of(trained(TIED), other, bank)
    report, train, test = Linear().measure(known, "test"), known.of("train"), known.of("test")
    fit = fit_linear(train.features, train.labels, 10, 0.5)
    expected = accuracy(fit.scores(test.features), test.labels)["top1"]
    assert report.measures == {"": expected, "weight": 0.5}
    assert report.tables == {}
    assert report.note == "its penalty is 0.5: no training image could be held out to choose one"
    assert scores_of(known, "test", "linear").note == f"scores of a linear probe on the model's features; {report.note}"


def test_measures_have_names_of_their_own():
    assert list(measure_names([Knn(5), Classify(), Linear(), Knn(5)]).values()) == ["knn", "classify", "linear"]
    both = measure_names([Knn(1), Knn(200), Linear(), Linear("class_mean")])
    assert list(both.values()) == ["knn(k=1)", "knn(k=200)", "linear(metric='top1')", "linear(metric='class_mean')"]
    assert list(measure_names([Knn(5, 0.1), Knn(5, 0.2)]).values()) == ["knn(temperature=0.1)", "knn(temperature=0.2)"]


def test_what_chooses_while_training():
    labeled, unlabeled = trained(TIED), trained(UNLABELED)
    bank = splits_of(pictures(30))
    assert while_training([Linear(), Knn(3)], labeled, bank) == ("top1", [Classify()])
    assert while_training([Linear(), Knn(3), Knn(5)], unlabeled, bank) == ("knn", [Knn(3)])
    assert while_training([Linear()], unlabeled, bank) == ("knn", [Knn(30)])
    assert while_training([Linear()], unlabeled, splits_of(pictures(300))) == ("knn", [Knn(200)])
    assert while_training([], unlabeled, bank) == ("knn", [])
    bank.train.labels[:] = -1
    assert while_training([Linear()], unlabeled, bank) == ("knn", [])


# ------------------------------------------------------------------------------------------------- features


def counted(seen):
    """A watch that notes what is worked on, and to where."""

    @contextlib.contextmanager
    def watch(what, count, unit="images"):
        done = []
        yield lambda *reached: done.append(reached)
        seen.append((what, count, unit, done[-1]))

    return watch


def test_each_split_passes_the_network_once():
    seen = []
    features = features_of(trained(TIED), pictures(12), pictures(30), pictures(20, seed=2), watch=counted(seen))
    evaluate(features, "val", [Knn(k=2)])
    evaluate(features, "test", [Linear(), Classify(), Knn(k=1), Knn(k=3)])
    assert seen == [
        ("val", 20, "images", (20, 20)),
        ("train", 30, "images", (30, 30)),
        ("knn", 20, "queries", (20, 20)),
        ("test", 12, "images", (12, 12)),
        ("linear", len(WEIGHTS), "penalties", (len(WEIGHTS), len(WEIGHTS))),
        ("knn", 12, "queries", (12, 12)),
        ("knn", 12, "queries", (12, 12)),
    ]
    first, again = features.of("test"), features.of("test")
    assert torch.equal(first.features, again.features)
    assert len(seen) == 7


def test_aggregated_scores_come_when_asked_for():
    step, images = trained(SLA), pictures(12)
    features = features_of(step, images)
    assert features.of("test").aggregated is None
    plain = features.of("test")
    assert features.of("test", aggregated=True).aggregated is not None
    assert torch.equal(features.of("test").features, plain.features)
    assert evaluate(features, "test", [Classify()]) == evaluate(features_of(step, images), "test", [Classify()])


def test_only_labelled_images_count():
    step, images, bank = trained(TIED), pictures(20), pictures(40, seed=4)
    few, thin = pictures(20), pictures(40, seed=4)
    few.labels[::3], thin.labels[1::2] = -1, -1
    kept, stayed = np.flatnonzero(few.labels >= 0), np.flatnonzero(thin.labels >= 0)
    less = ArrayImages(images.pixels[kept], images.labels[kept], images.index[kept], split="test")
    bare = ArrayImages(bank.pixels[stayed], bank.labels[stayed], bank.index[stayed], split="train")
    asked = [Classify(), Knn(k=3), Linear()]
    assert evaluate(features_of(step, few, thin), "test", asked) == evaluate(
        features_of(step, less, bare), "test", asked
    )
    few.labels[:] = -1
    with pytest.raises(DataError, match=r"^split 'test' has no labelled images to evaluate; this run has 30 train"):
        evaluate(features_of(step, few, thin), "test", [Classify()])
    with pytest.raises(DataError, match=r"^split 'train' has no labelled images"):
        evaluate(features_of(step, images, few), "test", [Knn(k=1)])


@pytest.mark.parametrize("protocol", [Classify(), Knn(k=1), Linear()])
def test_a_split_that_is_not_there(protocol):
    with pytest.raises(DataError, match=r"^no split 'val'; this run has 30 train, no val$"):
        evaluate(features_of(trained(TIED), pictures(4)), "val", [protocol])


# ------------------------------------------------------------------------------------------------- linear


def sunny(count, seed):
    """Images of three classes, told apart by their brightness, with noise."""
    images = pictures(count, 3, seed)
    dark = 60 * torch.from_numpy(images.labels)[:, None, None, None]
    return ArrayImages((images.pixels // 2 + dark).to(torch.uint8), images.labels, images.index, split="train")


def of(outputs):
    return outputs.features, outputs.labels


@pytest.mark.parametrize("metric", ["top1", "class_mean"])
@pytest.mark.parametrize("evaluated", ["test", "val", "test without val"])
def test_where_the_penalty_is_chosen_and_what_is_refitted(evaluated, metric):
    step = trained(UNLABELED, classes=3)
    val = None if evaluated == "test without val" else sunny(40, 3)
    features = features_of(step, sunny(50, 4), sunny(90, 2), val)
    split = evaluated[:4].strip()
    measures = evaluate(features, split, [Linear(metric)])
    train = features.of("train")
    if evaluated == "test":
        parts = *of(train), *of(features.of("val"))
        everything = [torch.cat(pair) for pair in zip(of(train), of(features.of("val")), strict=True)]
    else:
        rest, held = hold_out(train.labels.numpy(), 9, step.recipe.seed, "linear")
        assert np.bincount(train.labels[held]).tolist() == pytest.approx(np.bincount(train.labels) / 10, abs=1)
        parts = train.features[rest], train.labels[rest], train.features[held], train.labels[held]
        everything = of(train)
    probe = linear_probe(*parts, 3, metric=metric)
    measured = features.of(split)
    whole = fit_linear(*everything, 3, probe.weight, tolerance=1e-12).scores(measured.features)
    assert measures == {"linear": accuracy(whole, measured.labels)[metric], "linear_weight": probe.weight}
    assert Linear(metric).measure(features, split).note == ""
    assert measures["linear"] > 60


def test_a_probe_that_learns_mostly_from_val_says_so():
    """As with data.labels_per_class, which thins out train alone."""
    features = features_of(trained(UNLABELED, classes=3), sunny(50, 4), sunny(12, 2), sunny(40, 3))
    told = "fitted to 12 labels of train and the 40 on which its penalty was chosen"
    assert Linear().measure(features, "test").note == told
    assert scores_of(features, "test").note == f"scores of a linear probe on the model's features; {told}"
    assert Linear().measure(features, "val").note == ""


def test_a_probe_of_features_that_are_not_finite():
    step = trained(UNLABELED, classes=3)
    next(step.main.backbone.parameters()).data.fill_(math.nan)
    with pytest.raises(DataError, match=r"^linear: features hold values that are not finite$"):
        evaluate(features_of(step, sunny(20, 1), sunny(30, 2)), "test", [Linear()])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("robustness(root=3)", "root must be a folder, in quotes, got 3"),
        ("robustness(root=somewhere)", "root must be a folder, in quotes, got somewhere"),
        ("robustness(textures=['a'])", "textures must be a folder, in quotes"),
        ("transfer(root=None)", "root must be a folder, in quotes, got None"),
        ("transfer(root='x', download='yes')", "download must be True or False, got 'yes'"),
        ("fewshot(unit=[1])", "unit must be True or False"),
        ("finetune(augment=['flip'])", "augment must be ops in quotes"),
    ],
)
def test_settings_of_another_kind_are_refused_in_one_line(call, message):
    with pytest.raises(RecipeError, match=message) as caught:
        parse_protocols([call])
    assert "\n" not in str(caught.value)


def test_what_a_model_will_never_tell_is_known_before_it_is_trained():
    splits = Splits(pictures(30), pictures(20, seed=1), pictures(20, seed=2), NAMES, "a note")

    def check(text, *calls):
        check_model(parse_protocols(calls), StepModel(Step(parse_recipe(text), 10), NAMES), splits)

    bare = TIED.replace("cross_entropy(logits(a), logits(b))", "similarity(h(a), h(b))")
    check(TIED, "calibration(by='classifier')", "aggregate(orbit='rotation')")
    check(bare, "calibration", "robustness(by='linear')", "aggregate(orbit='rotation')")
    for call in ("calibration(by='classifier')", "adversarial(by='classifier')"):
        with pytest.raises(DataError, match="has no classifier of these classes"):
            check(bare, call)
    with pytest.raises(DataError, match="tells no members of an orbit apart"):
        check(TIED, "aggregate")


def test_a_bank_that_lost_images_says_how_many_are_left():
    class Lossy:
        """One picture cannot be read."""

        def __init__(self, whole):
            self.whole, self.labels, self.index = whole, whole.labels, whole.index
            self.size, self.channels = None, 3

        def __len__(self):
            return len(self.whole)

        def read(self, position):
            if position == 3:
                raise BadImage("picture 3: broken")
            return self.whole.read(position)

    splits = Splits(Lossy(pictures(30)), None, pictures(20, seed=2), NAMES, "a note")
    model = StepModel(Step(parse_recipe(TIED), 10).eval(), NAMES)
    Knn(k=30).check(splits)
    report = Knn(k=30).measure(Features(model, splits, skipped=[]), "test")
    assert report.measures["k"] == 29
    assert report.note == "knn asks k=29 neighbours, not 30: no more training images have a label"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("awareness_jitter_hue", 0.531, "0.531"),
        ("awareness_flip_right", 53.1, "53.10 %"),
        ("invariance_others", 0.4, "0.400"),
        ("invariance_agreement", 88.0, "88.00 %"),
        ("calibration(by='linear')", 0.05, "0.050"),
        ("calibration_scaled_ece15", 0.05, "0.050"),
        ("calibration_temperature", 1.234, "1.23"),
        ("finetune(fraction=0.1)_labels", 500.0, "500"),
        ("finetune(fraction=0.1)_lr", 0.01, "0.01"),
        ("fewshot_classes_left_out", 2.0, "2"),
        ("adversarial_pgd(8/255)", 12.0, "12.00 %"),
        ("aggregate_gain", 1.0, "1.00 %"),
    ],
)
def test_tables_show_percent_of_percents_alone(name, value, shown):
    assert table_row(name, value)[1] == shown
