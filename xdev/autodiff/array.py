"""TracedArray: an array of the standard that remembers where it came from.

Requirements: every operator goes through a function of the array's own namespace, so that it is recorded, and so
that it works on the array's device; nothing converts a traced array to another array type behind the user's back;
item assignment is functional and rebinds the traced array, as `x += y` rebinds the name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from operator import attrgetter, index
from typing import Any

from ..errors import ArrayTypeError, ConfigurationError
from ..ledger import reading
from ..registry import owners

__all__ = ["TracedArray", "constant", "recording", "unwrap"]

recording: ContextVar[Any] = ContextVar("xdev recording", default=None)
"""What a recording has in the place of the traced namespace of any array."""
_STAY = (
    "call functions of xp = xdev.namespace(x), where x is an argument of the differentiated function, or of xdev.ops; "
    "xdev.stop_gradient and auxiliary outputs take values out"
)
_VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")


class TracedArray:
    """An array that a tape follows; `xdev.namespace(x)` gives the functions that work on it.

    Parameters
    ----------
    value : array
        The array one level below: the framework's own, or one that an outer tape follows.
    tape : Tape or None
        Where functions of this array are recorded; None for a constant, whose `value` is the framework's own.
    index : int
        Its place on the tape.
    xp : TracedNamespace
        The functions that know traced arrays, on the array's device.
    """

    __slots__ = ("__xdev_value__", "index", "tape", "xp")
    __array_ufunc__ = None  # NumPy and CuPy arrays on the left of an operator let this class do it
    __array_priority__ = 1_000_000.0
    __hash__ = None  # type: ignore[assignment]  # arrays compare elementwise

    def __init__(self, value: Any, tape: Any, index: int, xp: Any) -> None:
        self.__xdev_value__ = value
        self.tape = tape
        self.index = index
        self.xp = xp

    # -- attributes of the standard --------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.__xdev_value__.shape  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return self.__xdev_value__.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        return self.__xdev_value__.size  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any:
        return self.__xdev_value__.dtype

    @property
    def device(self) -> Any:
        return self.__xdev_value__.device

    @property
    def T(self) -> TracedArray:  # noqa: N802  the standard's name
        if self.ndim != 2:
            raise ValueError(f"x.T needs 2 dimensions, got shape {self.shape}; take x.mT or xp.permute_dims")
        return self.xp.permute_dims(self, (1, 0))  # type: ignore[no-any-return]

    @property
    def mT(self) -> TracedArray:  # noqa: N802  the standard's name
        return self.xp.matrix_transpose(self)  # type: ignore[no-any-return]

    def to_device(self, device: Any, /, *, stream: Any = None) -> TracedArray:
        return self.xp.moved(self.xp.to_device_(self, device, stream=stream))  # type: ignore[no-any-return]

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        if api_version is not None and api_version not in _VERSIONS:
            raise ConfigurationError(
                f"api_version={api_version!r} is no version of the Array API standard; expected None or one of "
                f"{', '.join(_VERSIONS)}"
            )
        return self.xp

    def __copy__(self) -> TracedArray:
        """Return another array of the same values and gradient: nothing writes to values, so they are shared."""
        return TracedArray(self.__xdev_value__, self.tape, self.index, self.xp)

    def __deepcopy__(self, memo: Any) -> TracedArray:
        return self.__copy__()

    def __reduce__(self) -> Any:
        raise ArrayTypeError(f"an array under differentiation cannot be pickled; {_STAY}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"an array under differentiation has no {name!r}; {_STAY}")
        raise AttributeError(
            f"an array under differentiation has the attributes of the Array API standard, and {name!r} is none; "
            f"write xp.{name}(x) with xp = xdev.namespace(x), if that is a function of the standard"
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise ArrayTypeError(f"an array under differentiation cannot become a NumPy array; {_STAY}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise ArrayTypeError(f"numpy.{function.__name__} does not know arrays under differentiation; {_STAY}")

    # -- Python scalars --------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(_read(self, bool))

    def __int__(self) -> int:
        return int(_read(self, int))

    def __float__(self) -> float:
        return float(_read(self, float))

    def __complex__(self) -> complex:
        return complex(_read(self, complex))

    def __index__(self) -> int:
        return int(_read(self, index))

    def __len__(self) -> int:
        if not self.shape:
            raise ArrayTypeError("len() of an array without dimensions; x.shape is ()")
        return self.shape[0]

    def __iter__(self) -> Iterator[TracedArray]:
        if not self.shape:
            raise ArrayTypeError("iteration over an array without dimensions; x.shape is ()")
        return iter(self.xp.unstack(self))

    def __repr__(self) -> str:
        kind = "constant" if self.tape is None else "traced"
        return f"<{kind} {_read(self, repr)}>"

    def __format__(self, spec: str) -> str:
        told = _read(self, format)  # as one read, whatever the format
        return format(self.__xdev_value__, spec) if spec and told else str(self)

    # -- indexing --------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> TracedArray:
        return self.xp.getitem_(self, key)  # type: ignore[no-any-return]

    def __setitem__(self, key: Any, value: Any) -> None:
        new = self.xp.setitem_(self, value, key)
        self.__xdev_value__, self.tape, self.index = new.__xdev_value__, new.tape, new.index


def _operator(function: str, arguments: str) -> Callable[..., Any]:
    get = attrgetter(function)  # of the namespace
    if arguments == "x":
        return lambda x: get(x.xp)(x)
    if arguments == "xy":
        return lambda x, y: get(x.xp)(x, y)
    return lambda x, y: get(x.xp)(y, x)


# Operators: name -> function, and whether there is one for the array on the right. There are no in-place ones: Python
# then rebinds the name to the functional result.
for _names, _functions, _forms in (
    ("neg pos abs invert", "negative positive abs bitwise_invert", ("x",)),
    ("eq ne lt le gt ge", "equal not_equal less less_equal greater greater_equal", ("xy",)),
    ("add sub mul truediv pow matmul", "add subtract multiply divide pow matmul", ("xy", "yx")),
    ("mod floordiv", "remainder floor_divide", ("xy", "yx")),
    ("and or xor lshift rshift", "and or xor left_shift right_shift", ("xy", "yx")),
):
    for _name, _function in zip(_names.split(), _functions.split(), strict=True):
        for _form in _forms:
            _full = f"bitwise_{_function}" if _names.startswith("and") else _function
            setattr(TracedArray, f"__{'r' if _form == 'yx' else ''}{_name}__", _operator(_full, _form))

owners[TracedArray] = None


def constant(value: Any, xp: Any) -> TracedArray:
    """Return a traced array that no gradient flows to."""
    return TracedArray(value, None, -1, xp)


def unwrap(x: Any) -> Any:
    """Return the framework's own array below all levels of tracing; anything else as it is."""
    while type(x) is TracedArray:
        x = x.__xdev_value__
    return x


def _read(x: TracedArray, convert: Callable[[Any], Any]) -> Any:
    """Convert an array to what Python holds, under the eyes of ledgers and budgets."""
    with reading(f"{convert.__name__}() of a traced array", unwrap(x)):
        return convert(x.__xdev_value__)
