"""The recipe grammar: what it reads, what it refuses and with which words, and that it never runs anything."""

import builtins
import inspect
import itertools
import os

import pytest

from manyview.errors import RecipeError, misfit
from manyview.foundation.grammar import Call, Name, bind, check_arguments, parse_call, parse_pipeline, with_argument
from manyview.views.ops import OPS
from manyview.views.ops.crop import Crop

WHERE = "views.a.make"

ACCEPTED = {
    "flip": Call("flip"),
    "flip()": Call("flip"),
    "  flip( 0.5 ) ": Call("flip", (0.5,)),
    "\tflip(p=0.5)": Call("flip", (), {"p": 0.5}),
    "crop(32, scale=(0.2, 1))": Call("crop", (32,), {"scale": (0.2, 1)}),
    "crop((24, 32),)": Call("crop", ((24, 32),)),
    "jitter(0.4, 0.4,\n  hue=-0.1)": Call("jitter", (0.4, 0.4), {"hue": -0.1}),
    "p(a)": Call("p", (Name("a"),)),
    "teacher.z(b)": Call("teacher.z", (Name("b"),)),
    "stop(z(r.0))": Call("stop", (Call("z", (Name("r.0"),)),)),
    "logits(r.12)": Call("logits", (Name("r.12"),)),
    "linear(h, orbit=r)": Call("linear", (Name("h"),), {"orbit": Name("r")}),
    "cosine(p(a), toward=stop(teacher.z(b)), weight=0.5, swapped=True)": Call(
        "cosine",
        (Call("p", (Name("a"),)),),
        {"toward": Call("stop", (Call("teacher.z", (Name("b"),)),)), "weight": 0.5, "swapped": True},
    ),
    "warmup('10 epochs')": Call("warmup", ("10 epochs",)),
    "pool('layer1.0')": Call("pool", ("layer1.0",)),
    'pool("a.0", \'b.1 | c(2)\', """r.2""")': Call("pool", ("a.0", "b.1 | c(2)", "r.2")),
    "taps(['layer1.0', 'layer2.1'], {'x.0': 1.0}, r.3)": Call(
        "taps", (["layer1.0", "layer2.1"], {"x.0": 1.0}, Name("r.3"))
    ),
    "f(None, True, 1_000, 0x10, 1e-4, .5, 5., -2, +3)": Call("f", (None, True, 1000, 16, 1e-4, 0.5, 5.0, -2, 3)),
    "f(.0, x=.25)": Call("f", (0.0,), {"x": 0.25}),
    "f([], (), {}, [1, (2, -3.5)])": Call("f", ([], (), {}, [1, (2, -3.5)])),
    "ﬂip(é)": Call("flip", (Name("é"),)),  # Python's own folding of identifiers
    "f(x)  # why": Call("f", (Name("x"),)),
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_calls_are_read(text):
    assert parse_call(text, WHERE) == ACCEPTED[text]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_is_read_is_written_and_read_again(text):
    call = parse_call(text, WHERE)
    assert parse_call(str(call), WHERE) == call
    assert str(parse_call(str(call), WHERE)) == str(call)


@pytest.mark.parametrize("text", ACCEPTED)
def test_types_of_literals_survive(text):
    """1 == 1.0 == True: equality alone would not notice."""
    again = parse_call(str(parse_call(text, WHERE)), WHERE)
    assert repr(again) == repr(parse_call(text, WHERE))


LITERALS = [0, -1, 1.5, -2.5e-8, 1e300, True, None, "", "a b", 'it\'s "quoted"', "r.0", "a|b", "(", "#", "\n\t\\", "é…"]
LITERALS += [(), (1,), [1, [2, ()]], {"a": 1, "b": {"c": (0.1,)}}, {1, 2}]


@pytest.mark.parametrize("value", LITERALS, ids=repr)
def test_every_literal_survives_by_position_and_by_name(value):
    for call in (Call("f", (value,)), Call("b.f", (), {"x": value}), Call("f", (Call("g", (Name("r.1"), value)),))):
        again = parse_call(str(call), WHERE)
        assert again == call
        assert repr(again) == repr(call)


def test_a_pipeline_is_read_in_order():
    text = "crop(32, scale=(0.2, 1)) | flip(0.5)|grayscale | pool('a | b')"
    expected = ["crop(32, scale=(0.2, 1))", "flip(0.5)", "grayscale()", "pool('a | b')"]
    assert [str(call) for call in parse_pipeline(text, WHERE)] == expected
    assert parse_pipeline("flip", WHERE) == [Call("flip")]
    assert parse_pipeline("(a | b) | c", WHERE) == [Call("a"), Call("b"), Call("c")]
    assert [call.name for call in parse_pipeline(" | ".join(f"op{k}" for k in range(50)), WHERE)] == [
        f"op{k}" for k in range(50)
    ]


# text -> words of the message
REFUSED = {
    "": "expected a call",
    "   \n": "expected a call",
    "32": "expected a call",
    "'flip'": "expected a call",
    "(1, 2)": "expected a call",
    "crop(32": "brackets do not match",
    "crop(32))": "brackets do not match",
    "crop(32, scale=(0.2": "brackets do not match",
    "crop(32) flip": "cannot read",
    "crop(32,, 1)": "cannot read",
    "crop(=1)": "cannot read",
    "f('open": "cannot read",
    "f(x);g": "cannot read",
    "f(x)\ng(x)": "cannot read",
    "import os": "cannot read",
    "x = 1": "cannot read",
    "f(r .0)": "cannot read",
    "f(r.0.1)": "cannot read",
    "f(r.1e5)": "cannot read",
    "f(3.r)": "cannot read",
    "f(scale=1, scale=2)": "twice|repeated",
    "f(x, *y)": r"\* and \*\* are not part",
    "f(**y)": r"\* and \*\* are not part",
    "f(1 + 2)": "no expressions",
    "f(2 * 3)": "no expressions",
    "f(-x)": "no expressions",
    "f(not x)": "no expressions",
    "f(x if y else z)": "no expressions",
    "f(x and y)": "no expressions",
    "f(x < 1)": "no expressions",
    "f(x := 1)": "no expressions",
    "f(lambda: 1)": "no expressions",
    "f([x for x in y])": "no expressions",
    "f(x for x in y)": "no expressions",
    "f(f'{x}')": "no expressions",
    "f(a.b)": "no expressions",
    "f(a | b)": "no expressions",
    "f(r[0:1])": "no expressions",
    "f(r[i])": "no expressions",
    "f(r[-1])": "no expressions",
    "f((a, b))": "no expressions",
    "f([g(x)])": "no expressions",
    "f({'a': b})": "no expressions",
    "f({**a})": "no expressions",
    "a.b": "no expressions",
    "f(await x)": "cannot read|no expressions",
    "f | g": "no expressions",
    "f(x)(y)": "cannot call",
    "f[0](y)": "cannot call",
    "a.b.c(y)": "cannot call",
    "(f | g)(y)": "cannot call",
    "'f'(y)": "cannot call",
    "r.0()": "cannot call",
    "().__class__.__bases__": "no expressions",
}


@pytest.mark.parametrize("text", REFUSED, ids=repr)
def test_the_rest_is_refused_and_the_place_is_named(text):
    with pytest.raises(RecipeError, match=REFUSED[text]) as refused:
        parse_call(text, WHERE)
    assert str(refused.value).startswith(f"{WHERE}: ")
    if text.strip():
        assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", [None, 3, 0.5, ["flip"], {"flip": 0.5}, True], ids=repr)
def test_what_yaml_read_as_something_else_is_refused(text):
    for parse in (parse_call, parse_pipeline):
        with pytest.raises(RecipeError, match=rf"^{WHERE}: expected a call"):
            parse(text, WHERE)


@pytest.mark.parametrize(
    "text",
    ["flip |", "| flip", "flip || crop(3)", "flip | 3", "flip | crop(3", "flip | (crop(3) | flip)", "flip & crop(3)"],
)
def test_broken_pipelines_are_refused(text):
    with pytest.raises(RecipeError, match=rf"^{WHERE}: "):
        parse_pipeline(text, WHERE)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("f({[1]: 2})"),  # TypeError: unhashable
        pytest.param("f({1, [2]})"),
        pytest.param("f('\ud800')"),  # UnicodeEncodeError
        pytest.param("f(" + "-" * 100_000 + "1)"),  # MemoryError
        pytest.param(" | ".join(["f"] * 20_000)),  # RecursionError
        pytest.param("r.0"),  # read as a call, which is written `r.0()` and refused
        "f(r['x'])",
        "f(r[1.5])",
        "f(r[True])",
        pytest.param("f({'a': 1, 'a': 2})"),  # the first is lost without a word
        pytest.param("f(1e999)"),  # infinity, written `inf` and read again as a name
        pytest.param("f(...)"),  # written `Ellipsis` and read again as a name
        "f(" * 300 + ")" * 300,
        "f(" + "9" * 5000 + ")",
        "f(\0)",
    ],
    ids=lambda text: repr(text)[:24],
)
def test_odd_input_is_refused_in_the_same_way(text):
    with pytest.raises(RecipeError, match=rf"^{WHERE}: "):
        parse_pipeline(text, WHERE)


HARMFUL = [
    "__import__('os').system('touch harm')",
    "__import__('os')",
    'eval(\'open("harm", "w")\')',
    "exec('1/0')",
    "open('harm', 'w')",
    "f(open('harm', 'w'))",
    "f(x=exit())",
    "f([print(1)])",
    "f((lambda: open('harm', 'w'))())",
    'f(f\'{open("harm", "w")}\')',
    "breakpoint()",
]


@pytest.mark.parametrize("text", HARMFUL)
def test_nothing_is_ever_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    for name in ("eval", "exec", "open", "exit", "print", "breakpoint"):
        monkeypatch.setattr(builtins, name, lambda *_, _name=name: ran.append(_name), raising=False)
    monkeypatch.setattr(os, "system", ran.append)
    try:
        call = parse_call(text, WHERE)
    except RecipeError:
        call = None
    monkeypatch.undo()
    assert ran == []
    assert not list(tmp_path.iterdir())
    assert call is None or isinstance(call, Call)  # at most the name of a call, which no table knows


def scale(size, low=0.0, *, high=1.0):
    """A factory with a positional, a default and a keyword-only argument."""
    if size < 0:
        raise ValueError(f"size must not be negative, got {size}")
    if high == 0:
        raise RecipeError("no height")
    return size, low, high


def test_bind_calls_the_factory():
    assert bind(scale, parse_call("scale(3, high=0.5)", WHERE), WHERE) == (3, 0.0, 0.5)
    assert bind(scale, parse_call("scale(3)", WHERE), WHERE, high=2) == (3, 0.0, 2)
    assert bind(OPS["crop"], parse_call("crop(32, scale=(0.2, 1))", WHERE), WHERE) == Crop(32, (0.2, 1))
    assert bind(lambda **rest: rest, parse_call("f(a=1)", WHERE), WHERE) == {"a": 1}


UNFIT = {
    "scale()": "missing a required argument: 'size'; arguments: size, low, high",
    "scale(1, 2, 3)": "too many positional arguments",
    "scale(1, size=2)": "multiple values for argument 'size'",
    "scale(1, lwo=2)": "scale: unknown argument 'lwo'; did you mean 'low'\\? arguments: high, low, size",
    "scale(-1)": r"scale\(-1\): size must not be negative",
    "scale('x')": r"scale\('x'\): an argument is of a kind that scale cannot take",
    "scale(a)": r"scale\(a\): an argument is of a kind that scale cannot take",
    "scale(1, high=0)": "no height",
}


@pytest.mark.parametrize("text", UNFIT)
def test_bind_refuses_what_does_not_fit(text):
    with pytest.raises(RecipeError, match=rf"^{WHERE}: .*{UNFIT[text]}|^{WHERE}: {UNFIT[text]}"):
        bind(scale, parse_call(text, WHERE), WHERE)


@pytest.mark.parametrize("factory", [scale, lambda a, *b: 0, lambda a, **b: 0, lambda *, a, b=1: 0, lambda a, /, b: 0])
def test_misfits_are_those_of_python(factory):
    """Python decides what fits; what is wrong is told in words that do not change with its version."""
    signature = inspect.signature(factory)
    names = (*signature.parameters, "z")
    chosen = itertools.chain.from_iterable(itertools.combinations(names, size) for size in range(3))
    for count, keys in itertools.product(range(4), chosen):
        args, kwargs = (1,) * count, dict.fromkeys(keys, 1)
        try:
            signature.bind(*args, **kwargs)
            fits = True
        except TypeError:
            fits = False
        assert (misfit(signature, args, kwargs) is None) == fits, (count, keys)


def test_arguments_that_the_caller_fills_in_are_not_the_recipes():
    with pytest.raises(RecipeError, match=r"unknown argument 'size'.*arguments: high, low$"):
        check_arguments(scale, Call("scale", (), {"size": 1}), WHERE, {"size": 3})
    check_arguments(scale, Call("scale", (), {"low": 1}), WHERE, {"size": 3})


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("scale(3, 0.1)", "low", "scale(3, 9)"),
        ("scale(3, low=0.1)", "low", "scale(3, low=9)"),
        ("scale(3)", "low", "scale(3, low=9)"),
        ("scale(3)", "high", "scale(3, high=9)"),
        ("scale(3)", "size", "scale(9)"),
    ],
)
def test_with_argument_sets_one_wherever_it_stood(text, key, expected):
    call = parse_call(text, WHERE)
    assert str(with_argument(call, key, 9, scale)) == expected
    assert str(call) == text
