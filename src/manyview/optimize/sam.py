"""Sharpness-aware minimisation, around any other optimiser: `sam(sgd(lr=0.1, momentum=0.9), rho=0.05)`.

SAM (Foret, Kleiner, Mobahi, Neyshabur, ICLR 2021, eq. 2 and algorithm 1) minimises the largest loss within rho of the
weights w. With g the gradient at w,

    e = rho g / ||g||                       and, adaptive,    e = rho w^2 g / || |w| g ||

(ASAM: Kwon, Kim, Park, Choi, ICML 2021, element-wise, of every parameter; its code adds 0.01 to |w| and leaves
biases unscaled, which we do not). The gradient at w + e is then applied at w by the optimiser inside. rho is 0.05 in
SAM's CIFAR runs and of ASAM 0.5 there. Norms are over all parameters that are trained, and of the loss alone: weight
decay is the inner optimiser's. A zero gradient has e = 0. Heads that look on behind a stop have a norm of their own,
and their relations a part in each look, so that all else is as without them.

Both looks are at the same views, with the same dropout; what follows an update follows it once, and statistics of
BatchNorm are those of the first look, see `again`. On several processes e is of the gradient of all. Each look may be
of named relations (Tied-SAM: Kurtulus et al., ICML 2023, has all, cross-entropy, or the tie alone): of the others, what
is trained then has a gradient of 0, the same on one process and on many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, final

import torch
from torch import Tensor, nn

from manyview.errors import ManyviewError, RecipeError, unknown
from manyview.foundation.grammar import Call, Name
from manyview.optimize.again import looking_again
from manyview.optimize.clip import clipped_together


@dataclass(frozen=True)
class Sharpness:
    """SAM (Foret et al., ICLR 2021), or adaptive, ASAM (Kwon et al., ICML 2021), around an optimiser's call, `of`.

    An update looks at its batch twice: the gradient of the first look leads the weights by `rho` to where the loss is
    largest nearby, and that of the second, there, updates them. Both see the same views. ascend, descend: the relations
    that the first and the second look have for a loss, one name or several; none: all.
    """

    of: Call | Name | None = None
    rho: float = 0.05
    adaptive: bool = False
    ascend: str | Sequence[str] = ()
    descend: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.of, (Call, Name)):
            got = "" if self.of is None else f", got {self.of!r}"
            raise ValueError(f"sam stands around an optimiser, as in sam(sgd(lr=0.1), rho=0.05){got}")
        if isinstance(self.of, Call) and self.of.name == "sam":
            raise ValueError("sam stands around another optimiser, as in sam(sgd(lr=0.1)), not around itself")
        if type(self.rho) not in (int, float) or not 0 < self.rho < math.inf:
            raise ValueError(f"rho is a distance above 0, such as 0.05, got {_written(self.rho)}")
        if not isinstance(self.adaptive, bool):
            raise ValueError(f"adaptive must be True or False, got {_written(self.adaptive)}")
        for key in ("ascend", "descend"):
            names = getattr(self, key)
            if isinstance(names, Name):
                raise ValueError(f"put quotes round {key}='{names}'")
            if not isinstance(names, (str, tuple, list)) or not all(isinstance(name, str) for name in names):
                raise ValueError(
                    f"{key} names one relation in quotes, or several, ('cross_entropy', …), got {_written(names)}"
                )

    def check_relations(self, known: Collection[str]) -> None:
        """Raises ValueError for relations that do not exist, or look on behind a stop, and lead nowhere."""
        for key in ("ascend", "descend"):
            for name in named(getattr(self, key)):
                if name not in known:
                    raise ValueError(f"{key}: {unknown('relation', name, known, 'relations that teach')}")


def _written(value: Any) -> str:
    return str(value) if isinstance(value, (Call, Name)) else repr(value)


def named(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as several."""
    return (names,) if isinstance(names, str) else tuple(names)


def ascent(weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, adaptive: bool = False) -> list[Tensor]:
    """The way e to where the loss is largest nearby, one tensor a weight, of its shape; 0 where all gradients are 0."""
    slopes = [weight.abs() * slope for weight, slope in zip(weights, gradients, strict=True)] if adaptive else gradients
    norm = torch.nn.utils.get_total_norm(slopes)
    scale = torch.where(norm > 0, rho / norm, 0.0)
    ways = [slope * scale.to(slope) for slope in slopes]
    return [weight.abs() * way for weight, way in zip(weights, ways, strict=True)] if adaptive else ways


@final
class Sam(torch.optim.Optimizer):
    """SAM around an optimiser, whose groups, state and state_dict are this one's.

    inner: what moves the weights. module: the step, whose buffers and notes are of the first look, see `again`. rho,
    adaptive, ascend, descend: see `Sharpness`. Groups with a `scale` of 0, which are fixed, stay where they are in
    both looks. An update is `step(closure)`, or, where a loop makes both looks itself, gradients, `ascend()`,
    gradients inside of `second_look()`, `step()`. Raises ManyviewError.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        module: nn.Module,
        rho: float = 0.05,
        adaptive: bool = False,
        ascend: str | Sequence[str] = (),
        descend: str | Sequence[str] = (),
    ) -> None:
        try:
            Sharpness(Call(type(inner).__name__.lower()), rho, adaptive, ascend, descend)
        except ValueError as error:
            raise ManyviewError(f"Sam: {error}") from None
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.module, self.rho, self.adaptive = inner, module, rho, adaptive
        self._terms = named(ascend), named(descend)
        self._stood: list[tuple[nn.Parameter, Tensor]] = []  # weights, while they are elsewhere
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    def state_dict(self) -> dict[str, Any]:
        """The inner optimiser's: between updates there is nothing else."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inner optimiser's."""
        self.inner.load_state_dict(state_dict)
        self._share()

    def loss(self, output: Mapping[str, Any]) -> Tensor:
        """What this look's gradients are of: the loss of a step's output, or its named terms. Raises RecipeError."""
        wanted = self._terms[bool(self._stood)]
        return chosen(output, (*wanted, *_looking_on(self.module))) if wanted else output["loss"]

    @torch.no_grad()
    def ascend(self) -> None:
        """Behind the first look: leads the weights to where the loss is largest nearby. `step` leads them back."""
        if self._stood:
            raise ManyviewError("sam: ascend() comes once an update, and step() behind the second look's gradients")
        trained = [group for group in self.param_groups if group.get("scale", 1.0) != 0]
        weights = [each for group in trained for each in group["params"] if each.grad is not None]
        if not weights:
            raise ManyviewError("sam: no gradients to ascend by; call backward() of the first look's loss before")
        self._stood = [(each, each.clone()) for each in weights]
        number = {id(each): at for at, together in enumerate(_sharing(self.module)) for each in together}
        for at in sorted({number.get(id(each), 0) for each in weights}):
            together = [each for each in weights if number.get(id(each), 0) == at]
            ways = ascent(together, [each.grad for each in together], self.rho, self.adaptive)
            for weight, way in zip(together, ways, strict=True):
                weight.add_(way)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Leads the weights back, and updates them by the second look's gradients.

        closure: clears the gradients, makes those of `loss(output)`, and returns what is to be known of the first
        look, such as the loss; it is called twice. Without it, `ascend()` must have been called.
        """
        result = None if closure is None else self._look_twice(closure)
        if not self._stood:
            raise ManyviewError(
                "sam looks at each batch twice: give optimizer.step(closure), or call optimizer.ascend() behind the "
                "first gradients"
            )
        self._come_back()
        self.inner.step()
        return result

    @contextmanager
    def second_look(self) -> Iterator[None]:
        """Inside, the second look is made: nothing of it stays but its gradients, see `again`.

        Where it fails, the weights are those of before: whoever goes on, or saves, has no others.
        """
        try:
            with looking_again(self.module):
                yield
        except BaseException:
            self._come_back()
            raise

    @torch.no_grad()
    def _come_back(self) -> None:
        for weight, before in self._stood:
            weight.copy_(before)
        self._stood = []

    def _look_twice(self, closure: Callable[[], Any]) -> Any:
        devices = {weight.get_device() for group in self.param_groups for weight in group["params"] if weight.is_cuda}
        with torch.enable_grad(), torch.random.fork_rng(sorted(devices)):  # so that the second draws the same
            result = closure()
        self.ascend()
        self.zero_grad()
        with torch.enable_grad(), self.second_look():
            closure()
        return result


def _sharing(module: nn.Module) -> Sequence[Collection[nn.Parameter]]:
    """The parameters whose gradients share a norm: what looks on behind a stop has its own, as where it is clipped."""
    return clipped_together(module) if hasattr(module, "recipe") else [list(module.parameters())]  # type: ignore[arg-type]


def _looking_on(module: Any) -> list[str]:
    """The relations that look on: they teach nothing but their own heads, and do so in each look."""
    return [plan.name for plan in module.recipe.relation_plan if plan.looks_on] if hasattr(module, "recipe") else []


def chosen(output: Mapping[str, Any], relations: Sequence[str]) -> Tensor:
    """The sum of the terms of these relations; the others count 0 times, so that all is reached by a gradient.

    DistributedDataParallel would wait in vain for what only they reach. Raises RecipeError for one that is not there.
    """
    terms: Mapping[str, Tensor] = output["terms"]
    of = {name: name.partition(".")[0] for name in terms}  # a relation's terms may have parts, as agmax.entropy
    for relation in relations:
        if relation not in of.values():
            raise RecipeError(f"sam: {unknown('relation', relation, {*of.values()})}")
    return reduce(torch.add, (value if of[name] in relations else 0 * value for name, value in terms.items()))


__all__ = ["Sam", "Sharpness", "ascent", "chosen", "named"]
