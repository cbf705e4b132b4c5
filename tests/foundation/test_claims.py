"""What strangers wrote: it runs no code, and claims no more than it is."""

import zipfile

import pytest
import torch

from manyview.errors import DamagedError, RecipeError
from manyview.foundation.bounded_yaml import check_yaml
from manyview.foundation.files import read_json, read_state, write_state
from manyview.load import parse_recipe


def deflated(path, to):
    """The same archive with its parts compressed, as torch.save never writes them."""
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as made:
        for part in given.infolist():
            made.writestr(part.filename, given.read(part))


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"x": value}
    return value


def shared(levels):
    value = [0] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


HOSTILE = {
    "one number as many": (lambda: {"w": torch.zeros(1).expand(10**12)}, "claim more than"),
    "one memory many times": (lambda: {"w": [torch.zeros(2**22).view(1, -1)] * 40}, "claim more than"),
    "without values": (lambda: {"w": torch.empty(10**12, device="meta")}, "without values"),
    "sparse": (lambda: {"w": torch.eye(3).to_sparse()}, "sparse"),
    "nested": (lambda: nested(150), "nested more than"),
    "lists of lists": (lambda: {"x": shared(7)}, "more than 300,000 values"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_checkpoint_claims_no_more_than_it_is(tmp_path, case):
    state, told = HOSTILE[case]
    torch.save(state(), tmp_path / "w.pt")
    with pytest.raises(DamagedError, match=told) as caught:
        read_state(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_a_compressed_archive_is_refused_before_it_unfolds(tmp_path):
    torch.save({"w": torch.zeros(2**22)}, tmp_path / "w.pt")
    deflated(tmp_path / "w.pt", tmp_path / "bomb.pt")
    assert (tmp_path / "bomb.pt").stat().st_size < 2**16
    with pytest.raises(DamagedError, match=r"a part of it is compressed"):
        read_state(tmp_path / "bomb.pt")


def test_parts_that_lie_upon_one_another_are_refused(tmp_path):
    torch.save({"w": torch.zeros(2**16)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.filelist.append(max(archive.infolist(), key=lambda each: each.file_size))
        archive.comment = b"so that it is written anew"
    with pytest.raises(DamagedError, match=r"lie upon one another"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_one_bit_of_a_checkpoint_is_noticed(tmp_path, share):
    write_state(tmp_path / "w.pt", {"w": torch.randn(10_000)})
    data = bytearray((tmp_path / "w.pt").read_bytes())
    data[int(len(data) * share)] ^= 1
    (tmp_path / "w.pt").write_bytes(data)
    torch.load(tmp_path / "w.pt")  # torch notices nothing
    with pytest.raises(
        DamagedError, match=r"w\.pt is damaged, .*the checksum of its part \S+data/0 is not that of what"
    ):
        read_state(tmp_path / "w.pt")


def test_what_was_saved_without_checksums_and_tied_weights_are_read(tmp_path):
    weight = torch.randn(2**20)
    tied = {"a": weight, "b": weight, "c": weight[:10]}
    torch.save(tied, tmp_path / "tied.pt")
    assert torch.equal(read_state(tmp_path / "tied.pt")["c"], weight[:10])
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tied, tmp_path / "plain.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_state(tmp_path / "plain.pt")["b"], weight)
    torch.save(tied, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_state(tmp_path / "old.pt")["a"], weight)


# ------------------------------------------------------------------------------------------------------- texts

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)
TEXTS = {
    "aliases": (LAUGHS, r"^line 5: with its aliases unfolded it is more than 100,000 values$"),
    "brackets": ("views: " + "[" * 100_000, r"^line 1: nested more than 50 deep$"),
    "closed brackets": ("views: " + "{a: " * 3000 + "}" * 3000, r"^line 1: nested more than 50 deep$"),
    "dashes": ("views:\n  " + "- " * 5000, r"nested too deeply"),
    "itself": ("views: &a {b: *a}", r"recursive"),
    "length": ("#" * 2**20 + "\nviews: {}", r"^1,048,586 characters of YAML; at most 1,048,576 are read$"),
    "digits": ("seed: " + "9" * 100_000, r"^not YAML: Exceeds the limit"),
    "code": ("seed: !!python/object/apply:os.system [ls]", r"could not determine a constructor for the tag"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_recipe_is_no_larger_than_it_looks(case):
    text, told = TEXTS[case]
    with pytest.raises(RecipeError, match=told) as caught:
        parse_recipe(text)
    assert "\n" not in str(caught.value)


def test_usual_texts_are_left_alone():
    check_yaml("a: &a {b: [1, 2]}\nc: *a\nd: '[[[['\n")


def test_json_of_strangers(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "none.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"^it is nested too deeply$"):
        read_json(tmp_path / "deep.json")
    with pytest.raises(ValueError, match=r"decode"):
        read_json(tmp_path / "none.json")
