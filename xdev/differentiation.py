"""What gradients and training steps share: arguments checked, trees taken apart, and the way to a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import autodiff, registry, tree
from .autodiff.engine import check_loss, warn_of_constant
from .contract import Backend, dtype_name
from .device import device_of_array, namespace, native_of
from .errors import ArrayTypeError, GradientError, a
from .locking import Copies, Locks
from .tree_marks import trainable_mask

__all__ = [
    "Split",
    "argument_numbers",
    "check_function",
    "constants",
    "differentiate",
    "exactly",
    "fitting_cotangent",
    "is_complex",
    "is_differentiable",
    "locked",
    "named",
    "names_of",
    "on_tape",
    "selected",
    "take_apart",
]

DIFFERENTIABLE = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})


class Split:
    """The differentiable leaves of several trees, apart from the rest; ties within a model are one leaf."""

    def __init__(self, treedefs: list[tree.TreeDef], all_leaves: list[list[Any]], places: list[list[int]]) -> None:
        self._treedefs = treedefs
        self._all = all_leaves
        self._places = places
        self.leaves: list[Any] = []

    @classmethod
    def of(cls, trees: Sequence[Any]) -> Split:
        """Take trees apart."""
        treedefs, all_leaves, places = [], [], []
        picked: list[Any] = []
        for tree_ in trees:
            leaves, treedef = tree.flatten(tree_)
            mask = trainable_mask(tree_, treedef) if len(leaves) > 1 else [True] * len(leaves)
            tied: dict[int, int] = {}
            is_model = hasattr(type(tree_), "__xdev_trainable__")
            where = []
            for leaf, allowed in zip(leaves, mask, strict=True):
                if not (allowed and is_differentiable(leaf)):
                    where.append(-1)
                    continue
                place = tied.get(id(leaf), len(picked)) if is_model else len(picked)
                if place == len(picked):
                    picked.append(leaf)
                    tied[id(leaf)] = place
                where.append(place)
            treedefs.append(treedef)
            all_leaves.append(leaves)
            places.append(where)
        made = cls(treedefs, all_leaves, places)
        made.leaves = picked
        return made

    def join(self, leaves: list[Any], backend: Backend, copies: bool = False) -> list[Any]:
        """Return the trees with these leaves in the differentiable places, and the others as constants, or copies."""
        keep = Copies().keep if copies else lambda leaf: leaf
        return self._join(leaves, lambda leaf: constants(backend, keep(leaf)))

    def pick(self, trees: Sequence[Any]) -> list[Any]:
        """Return what stands in the differentiable places of trees of that structure; of tied places, in the first."""
        picked: list[Any] = [None] * len(self.leaves)
        for tree_, where in zip(trees, self._places, strict=True):
            for leaf, place in zip(tree.leaves(tree_), where, strict=True):
                if place >= 0 and picked[place] is None:
                    picked[place] = leaf
        return picked

    def once(self, trees: Sequence[Any], others: Sequence[Any]) -> list[Any]:
        """Return trees with what `pick` picks in those places, and in all other places what stands in `others`."""
        taken: set[int] = set()
        out = []
        for tree_, other, treedef, where in zip(trees, others, self._treedefs, self._places, strict=True):
            leaves = []
            for leaf, rest, place in zip(tree.leaves(tree_), tree.leaves(other), where, strict=True):
                leaves.append(leaf if place >= 0 and place not in taken else rest)
                taken.add(place)
            out.append(tree.unflatten(treedef, leaves))
        return out

    def join_gradients(self, gradients: list[Any]) -> list[Any]:
        """Return gradients in the trees' structure, zeros where nothing is differentiated."""
        return self._join(gradients, _zero_like)

    def _join(self, leaves: list[Any], other: Callable[[Any], Any]) -> list[Any]:
        return [
            tree.unflatten(treedef, [leaves[p] if p >= 0 else other(leaf) for leaf, p in zip(old, where, strict=True)])
            for treedef, old, where in zip(self._treedefs, self._all, self._places, strict=True)
        ]


def _zero_like(leaf: Any) -> Any:
    owned = native_of(leaf)
    if owned is None:
        return 0 if isinstance(leaf, int | float | complex) else leaf
    backend, native = owned
    device = device_of_array(backend, native)
    xp = backend.xp if device is None else device.xp
    return xp.zeros_like(native)


def is_differentiable(leaf: Any) -> bool:
    """Return whether a leaf is an array of a floating or complex dtype."""
    if registry.find_backend(leaf) is None and not hasattr(type(leaf), "__xdev_value__"):
        return False
    return dtype_name(leaf.dtype) in DIFFERENTIABLE


def is_complex(x: Any) -> bool:
    """Return whether `x` is an array of complex numbers."""
    return hasattr(x, "dtype") and dtype_name(x.dtype).startswith("complex")


def on_tape(backend: Backend) -> bool:
    """Return whether the gradients of a backend are those of xdev's own reverse mode."""
    return type(backend).value_and_grad is Backend.value_and_grad


def differentiate(
    backend: Backend,
    function: Callable[[list[Any]], tuple[Any, list[Any]]],
    leaves: list[Any],
    names: Callable[[], Sequence[str]] | None = None,
    trainer: Any = None,
) -> tuple[Any, list[Any], list[Any]]:
    """Return (value, auxiliary arrays, gradients) by the backend's gradients, or else by the tape.

    `names` gives what the leaves are called in the warning that the value depends on none of them. A `trainer` takes
    the gradients in place of the backend.
    """
    if not on_tape(backend):

        def checked(leaves: list[Any]) -> tuple[Any, list[Any]]:
            value, aux = function(leaves)
            check_loss(value)
            return value, aux

        native = (trainer or backend).value_and_grad(checked, leaves)
        if native is not NotImplemented:
            value, aux, gradients = native
            if gradients is None:
                warn_of_constant(len(leaves), names)
                gradients = [namespace(leaf).zeros_like(leaf) for leaf in leaves]
            return value, aux, gradients
    return autodiff.value_and_grad(function, leaves, names)


def named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return arguments with the names that errors give them."""
    return [(f"args[{i}]", a) for i, a in enumerate(args)] + list(kwargs.items())


def names_of(arrays: Sequence[Any], roots: Sequence[tuple[str, Any]]) -> list[str]:
    """Return where arrays stand in named trees, which hold all of them: `args[0]['w']`."""
    found: dict[int, list[str]] = {}
    for name, root in roots:
        for path, leaf in zip(*tree.flatten_with_paths(root)[:2], strict=True):
            found.setdefault(id(leaf), []).append(tree.path_string(path, name))
    paths = [found[id(x)] for x in arrays]
    return [its.pop(0) if len(its) > 1 else its[0] for its in paths]


def locked(backend: Backend, leaves: Sequence[Any]) -> Locks:
    """Return the locks of what a function takes, which the tape needs as it is until the gradient is there."""
    return Locks(leaves if on_tape(backend) else ())


def constants(backend: Backend, tree_: Any) -> Any:
    """Return what a function takes beside its differentiated leaves, in the form that its gradients need.

    On the tape, arrays become traced constants: `xdev.namespace` of them is then the traced namespace.
    """
    if not on_tape(backend):
        return tree_
    return tree.map(autodiff.lift, tree_)


def take_apart(out: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Return the arrays of a tree, and the function that puts others in their places."""
    leaves, treedef = tree.flatten(out)
    is_array = [native_of(leaf) is not None for leaf in leaves]
    arrays = [leaf for leaf, yes in zip(leaves, is_array, strict=True) if yes]
    others = [None if yes else leaf for leaf, yes in zip(leaves, is_array, strict=True)]

    def rebuild(new: list[Any]) -> Any:
        fresh = iter(new)
        return tree.unflatten(
            treedef, [next(fresh) if yes else other for yes, other in zip(is_array, others, strict=True)]
        )

    return arrays, rebuild


def exactly(value: Any) -> Any:
    """Return what is equal only for values that are the same to a function: not 1, 1.0 and True, nor 0.0 and -0.0."""
    kind = type(value)
    if kind is tuple:
        return kind, tuple(map(exactly, value))
    return kind, repr(value) if kind in (float, complex) else value


# -- arguments ---------------------------------------------------------------------------------------


def check_function(f: Any, name: str) -> None:
    """Refuse what cannot be called, such as the result of a function in its place."""
    if not callable(f):
        raise ArrayTypeError(f"{name} takes a function, got {a(type(f).__name__)}")


def argument_numbers(name: str, given: Any) -> tuple[int, ...]:
    """Return argument numbers as a tuple."""
    numbers = (given,) if isinstance(given, int) else given
    if not isinstance(numbers, tuple | list) or not all(isinstance(n, int) for n in numbers):
        raise ArrayTypeError(f"{name} takes an int or a sequence of ints, the places of arguments; got {given!r}")
    return tuple(numbers)


def selected(f: Callable[..., Any], args: tuple[Any, ...], numbers: tuple[int, ...]) -> list[Any]:
    """Return the arguments of those numbers."""
    count = len(args)
    if not numbers:
        raise GradientError("argnums=() names no argument; give the place of at least one")
    for number in numbers:
        if not -count <= number < count:
            name = getattr(f, "__name__", "the function")
            raise GradientError(f"argnums={number}, but {name} was called with {count} positional arguments")
    if len({number % count for number in numbers}) < len(numbers):
        raise GradientError(
            f"argnums={numbers} names an argument more than once, and {count} were given; name each once"
        )
    return [args[number] for number in numbers]


def fitting_cotangent(cotangent: Any, y: Any, path: str) -> Any:
    """Return a cotangent that fits an output, numbers as arrays."""
    shape, dtype = tuple(y.shape), dtype_name(y.dtype)
    if isinstance(cotangent, int | float | complex) and shape == ():
        return namespace(y).full_like(y, cotangent)
    got = getattr(cotangent, "shape", None)
    if got is None or not hasattr(cotangent, "dtype"):
        raise GradientError(
            f"{path} is {a(type(cotangent).__name__)}; expected an array of shape {shape}, its output's"
        )
    if tuple(got) != shape:
        raise GradientError(f"{path} has shape {tuple(got)}, its output {shape}; make them equal")
    if dtype_name(cotangent.dtype) != dtype:
        raise GradientError(
            f"{path} has dtype {dtype_name(cotangent.dtype)}, its output {dtype}; cast it with xp.astype"
        )
    return cotangent
