"""The systems that timm's loop is tried with, small."""

HEAD = """
seed: 2
train: {epochs: 2}
views:
  a: {from: image, make: "pad_crop(16, padding=2) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1)"}
"""
NET = "branches: {net: {backbone: test_resnet, normalize: half%s}}\nrelations:\n"

TIED = (
    HEAD
    + '  b: {from: a, make: "randaugment(2, 9)"}\n  unread: {from: image, make: flip}\n'
    + NET % ""
    + "  - cross_entropy(logits(a), logits(b))\n  - similarity(h(a), h(b), weight=warmup(1))\n"
)
MIXED = (
    HEAD
    + '  b: {from: image, make: "crop(16) | mixup(1.0)"}\n  c: {from: image, make: "crop(16) | cutmix(1.0)"}\n'
    + NET % ""
    + "  - cross_entropy(logits(b), logits(c))\n  - agmax(logits(b), logits(c), hidden=8)\n"
)
JSD = (
    HEAD
    + '  b: {from: a, make: "augmix(3)"}\n  c: {like: b}\n'
    + NET % ""
    + "  - cross_entropy(logits(a))\n  - jensen_shannon(logits(a), logits(b), logits(c), weight=12)\n"
)
SLA = (
    HEAD
    + "  r: {from: a, orbit: rotation}\n"
    + NET % ', joint: "linear(h, orbit=r)"'
    + ("  - joint_cross_entropy(joint(r))\n")
)
AUGSELF = (
    "train: {epochs: 2}\nviews:\n"
    '  a: {from: image, make: "crop(16, scale=(0.2, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1)"}\n'
    "  b: {like: a}\n"
    + NET % ""
    + "  - cross_entropy(logits(a), logits(b))\n  - augself(h(a), h(b), crop=1.0, color=1.0, hidden=8)\n"
)
MOCO = (
    HEAD
    + "  b: {like: a}\nbranches:\n  net: {backbone: test_resnet, z: 'projector(h, 8, hidden=16)'}\n"
    + "  teacher: ema(net, momentum=0.9, schedule='cosine')\nrelations:\n"
    + "  - info_nce(z(a), toward=teacher.z(b), queue=32)\n"
)
SYSTEMS = {"tied": TIED, "mixed": MIXED, "jsd": JSD, "sla": SLA, "augself": AUGSELF}
