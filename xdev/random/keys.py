"""The state of a generator: a key and the number of the next draw, from which each draw gets its own key.

Requirements: words that the host knows are Python ints, and nothing is then read from a device; words that
came out of a compiled function are arrays, and stay where they are. A stream is a pytree of three uint32
words. It remembers the compilation it was made in, and can be used in no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Self

import numpy as np

from .. import tree
from ..crossing import read
from ..device import Device, device_of_array, namespace, native_of
from ..device import device as find_device
from ..errors import RandomError, TransferError
from ..transfer import to_device
from . import threefry
from .arguments import count, integer

__all__ = ["KeyStream", "register", "tracing"]

_trace: ContextVar[object] = ContextVar("xdev random trace", default=None)

CAPTURED = (
    "a generator from outside is drawn from in a compiled function, which would repeat the same numbers in "
    "every call; pass it as an argument and return it: x, rng = f(x, rng)"
)
LEAKED = (
    "a generator made while a function was compiled is used outside of that function; return it, and use the "
    "one that the call gives back"
)
EXHAUSTED = "this generator has made 2**32 draws, all it can; go on with another seed"


@contextlib.contextmanager
def tracing(token: object) -> Iterator[None]:
    """Mark a block as the compilation of one function, where generators from outside cannot be used.

    Parameters
    ----------
    token : object
        The identity of this compilation; not None.

    Yields
    ------
    None

    Examples
    --------
    >>> import xdev.random
    >>> rng = xdev.random.Generator(0, "numpy")
    >>> with xdev.random.tracing(object()):
    ...     rng.bits(3)
    Traceback (most recent call last):
    ...
    xdev.errors.RandomError: a generator from outside is drawn from in a compiled function, which \
would repeat the same numbers in every call; pass it as an argument and return it: x, rng = f(x, rng)
    """
    before = _trace.set(token)
    try:
        yield
    finally:
        _trace.reset(before)


class KeyStream:
    """Keys for draws, from a seed; the base of `Generator`, which says what the numbers are."""

    __slots__ = ("_draws", "_key", "_token", "device")

    device: Device

    def __init__(self, seed: int, device: Device | str | None = None) -> None:
        number = integer(seed, "the seed", 'Generator(0, "numpy")')
        if not 0 <= number < 2**64:
            raise RandomError(f"the seed is {number}, expected 0 to 2**64 - 1; take it modulo 2**64")
        self._set((number >> 32, number & 0xFFFFFFFF), 0, find_device(device))

    def _set(self, key: tuple[Any, Any], draws: Any, device: Device) -> None:
        self._key = key
        self._draws = draws
        self._token = _trace.get()
        self.device = device

    @classmethod
    def _make(cls, key: tuple[Any, Any], draws: Any, device: Device) -> Self:
        made = cls.__new__(cls)
        made._set(key, draws, device)
        return made

    # -- advancing -----------------------------------------------------------------------------------

    def _next_key(self) -> threefry.Key:
        """Return the key of the next draw, and advance."""
        trace = _trace.get()
        if self._token is not trace:
            raise RandomError(LEAKED if trace is None else CAPTURED)
        draws, (k0, k1) = self._draws, self._key
        if isinstance(draws, int) and isinstance(k0, int) and isinstance(k1, int):
            if draws >= 2**32:
                raise RandomError(EXHAUSTED)
            self._draws = draws + 1
            return threefry.words((k0, k1), (0, draws))
        xp = namespace(*(word for word in (k0, k1, draws) if not isinstance(word, int)))
        with self.device.scope():
            first, second, low = (_array(xp, word) for word in (k0, k1, draws))
            key = threefry.arrays((first, second), 0, low)
            self._draws = _word(xp, low + 1)
        return key

    def _here(self, key: threefry.Key) -> threefry.Key:
        """Return a draw's key on the generator's device: words that came out of a compiled function may lie elsewhere.

        The words of the generator stay there, beside the arrays that it goes on with.
        """
        owned = None if isinstance(key[0], int) else native_of(key[0])
        info = self.device.info
        if owned is None or info.members or (there := device_of_array(*owned)) is self.device:
            return key
        if there is not None:
            return to_device(key[0], self.device), to_device(key[1], self.device)
        # Under compilation, what depends on no array lands on the backend's first device. What belongs there is left
        # free to follow the arrays, which may be divided over several devices.
        if self.device.backend.devices()[0].handle == info.handle:
            return key
        with self.device.scope():
            return self.device.xp.asarray(key[0]), self.device.xp.asarray(key[1])

    def _made_here(self, key: threefry.Key) -> bool:
        """Return whether a draw of that key must have a device: known, and in no compilation of ours."""
        return isinstance(key[0], int) and self._token is None

    def split(self, n: int, /) -> list[Self]:
        """Return independent generators; this one advances by one draw, and stays independent of them.

        Parameters
        ----------
        n : int
            How many.

        Returns
        -------
        list of Generator
            On the same device.

        Raises
        ------
        RandomError
            If `n` is negative or not an integer.

        Examples
        --------
        >>> import xdev.random
        >>> first, second = xdev.random.Generator(0, "numpy").split(2)
        >>> bool((first.bits(4) == second.bits(4)).any())
        False
        """
        n = count(n, "split")
        key = self._next_key()
        if isinstance(key[0], int):
            return [self._make(threefry.words(key, (0, i)), 0, self.device) for i in range(n)]
        xp = namespace(key[0])
        with self.device.scope():
            first, second = threefry.counted(xp, key, 0, n)
            keys = [(_word(xp, first[i : i + 1]), _word(xp, second[i : i + 1])) for i in range(n)]
            zero = _word(xp, key[0] ^ key[0])
        return [self._make(key, zero, self.device) for key in keys]

    # -- saving --------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """The key, a NumPy array of two uint32, and the number of draws, an int; `from_state` restores it.

        Reads three words from the device if the generator came out of a compiled function, which ledgers count.

        Raises
        ------
        TransferError
            Within a compiled function, where the words have no values.
        TransferBudgetExceeded
            If a budget forbids the reading.
        """
        words = [_value(word) for word in (*self._key, self._draws)]
        return {"key": np.asarray(words[:2], dtype=np.uint32), "draws": words[2]}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: Device | str | None = None) -> Self:
        """Return a generator that goes on where the one whose `state` it is stood.

        Parameters
        ----------
        state : dict
            What `Generator.state` was.
        device : Device, str or None
            Where to make numbers; any device, whatever the state came from. None is `xdev.device()`.

        Returns
        -------
        Generator
            A new one.

        Raises
        ------
        RandomError
            If `state` is something else.

        Examples
        --------
        >>> import xdev.random
        >>> rng = xdev.random.Generator(0, "numpy")
        >>> again = xdev.random.Generator.from_state(rng.state, "numpy")
        >>> bool((rng.bits(5) == again.bits(5)).all())
        True
        """
        try:
            first, second = (int(word) for word in state["key"])
            draws = int(state["draws"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RandomError(
                f"got {state!r}, expected the state of a generator, a dict of 'key' (two uint32) and 'draws' "
                "(an int); pass what Generator.state gave"
            ) from error
        if not (0 <= first < 2**32 and 0 <= second < 2**32 and 0 <= draws <= 2**32):
            raise RandomError(f"the state {state!r} has words outside of 0 to 2**32 - 1; it is damaged")
        return cls._make((first, second), draws, find_device(device))

    def __xdev_to_device__(self, device: Device) -> Self:
        """Return the stream with the same state that makes numbers on another device; itself if that is its own."""
        if device is self.device:
            return self
        words: tuple[Any, ...] = (*self._key, self._draws)
        if device.backend is not self.device.backend or device.info.members:
            words = tuple(map(_value, words))
        first, second, draws = (word if isinstance(word, int) else to_device(word, device) for word in words)
        return self._like(self._make((first, second), draws, device))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.device}, key {self._key}, {self._draws} draws>"

    def __copy__(self) -> Self:
        return self._like(self._make(self._key, self._draws, self.device))

    def _like(self, made: Self) -> Self:
        """Return a copy, which can be used where its original can."""
        made._token = self._token
        return made

    def __deepcopy__(self, _: Any) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self.state, self.device)


def _array(xp: Any, word: Any) -> Any:
    """Return a word as int32 of shape (1,): sums of 0-d arrays may be scalars, which warn as they wrap."""
    if isinstance(word, int):
        return xp.asarray([threefry.signed(word)], dtype=xp.int32)
    return xp.reshape(xp.astype(word, xp.int32), (1,))


def _value(word: Any) -> int:
    """Return a word as an int, read from its device where the host does not know it."""
    owned = None if isinstance(word, int) else native_of(word)
    if owned is None:
        return int(word)
    backend, native = owned
    source = device_of_array(backend, native)
    if source is None:
        raise TransferError(
            f"the words of a generator are being traced by {backend}, as under jit, and have no values to read or to "
            "take elsewhere; return the generator, and use the one that the call gives back"
        )
    return int(read(native, backend, source))


def _word(xp: Any, array: Any) -> Any:
    return xp.reshape(xp.astype(array, xp.uint32), ())


def _flatten(stream: KeyStream) -> tuple[tuple[Any, ...], Device, tuple[str, ...]]:
    words = (*stream._key, stream._draws)
    if isinstance(stream._draws, int) and stream._draws >= 2**32:  # one word would say 0, and the numbers start over
        raise RandomError(EXHAUSTED)
    return (
        tuple(np.uint32(word) if isinstance(word, int) else word for word in words),
        stream.device,
        ("key_high", "key_low", "draws"),
    )


def _known(leaf: Any, device: Device) -> Any:
    """Return a word as an int if the host has it, also as a constant beside what is differentiated elsewhere."""
    if not isinstance(leaf, np.integer | np.ndarray):
        owned = None if device.is_host else native_of(leaf)
        if owned is None or not isinstance(owned[1], np.integer | np.ndarray):
            return leaf
        leaf = owned[1]
    return int(leaf)


def register(cls: type[KeyStream]) -> None:
    """Make a kind of streams a pytree: three words, the host's if they are NumPy's, and a static device."""

    def unflatten(device: Device, leaves: Iterable[Any]) -> KeyStream:
        first, second, draws = (_known(leaf, device) for leaf in leaves)
        return cls._make((first, second), draws, device)

    tree.register(cls, _flatten, unflatten)
