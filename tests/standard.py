"""The names of the Array API standard, revision 2025.12, as it lists them; those of extensions with a point.

References
----------
.. [1] https://data-apis.org/array-api/2025.12/
"""

from __future__ import annotations

__all__ = [
    "ATTRIBUTES",
    "CONSTANTS",
    "DTYPES",
    "FUNCTIONS",
    "INSPECTION",
    "IN_PLACE",
    "LEFT",
    "METHODS",
    "OPERATORS",
    "REFLECTED",
    "REVISION",
]

REVISION = "2025.12"


def _names(text, prefix=""):
    return tuple(prefix + name for name in text.split())


FUNCTIONS = {
    "Creation": _names(
        """
        arange asarray empty empty_like eye from_dlpack full full_like linspace meshgrid ones ones_like tril triu
        zeros zeros_like
        """
    ),
    "Elementwise": _names(
        """
        abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_invert bitwise_or
        bitwise_right_shift bitwise_xor ceil clip conj copysign cos cosh divide equal exp expm1 floor floor_divide
        greater greater_equal hypot imag isfinite isinf isnan less less_equal log log1p log2 log10 logaddexp
        logical_and logical_not logical_or logical_xor maximum minimum multiply negative nextafter not_equal positive
        pow real reciprocal remainder round sign signbit sin sinh square sqrt subtract tan tanh trunc
        """
    ),
    "Statistical": _names("cumulative_prod cumulative_sum max mean min prod std sum var"),
    "Manipulation": _names(
        """
        broadcast_arrays broadcast_shapes broadcast_to concat expand_dims flip moveaxis permute_dims repeat reshape
        roll squeeze stack tile unstack
        """
    ),
    "Indexing": _names("take take_along_axis"),
    "Searching": _names("argmax argmin count_nonzero nonzero searchsorted where"),
    "Sorting": _names("argsort sort"),
    "Sets": _names("isin unique_all unique_counts unique_inverse unique_values"),
    "Utilities": _names("all any diff"),
    "Data types": _names("astype can_cast finfo iinfo isdtype result_type"),
    "Linear algebra": _names("matmul matrix_transpose tensordot vecdot"),
    "linalg": _names(
        """
        cholesky cross det diagonal eig eigh eigvals eigvalsh inv matmul matrix_norm matrix_power matrix_rank
        matrix_transpose outer pinv qr slogdet solve svd svdvals tensordot trace vecdot vector_norm
        """,
        "linalg.",
    ),
    "fft": _names("fft ifft fftn ifftn rfft irfft rfftn irfftn hfft ihfft fftfreq rfftfreq fftshift ifftshift", "fft."),
    "Inspection": _names("__array_namespace_info__"),
}
INSPECTION = _names("capabilities default_device default_dtypes devices dtypes")
"""Methods of what `__array_namespace_info__` returns."""
CONSTANTS = _names("e inf nan newaxis pi")
DTYPES = _names("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128")

ATTRIBUTES = _names("dtype device mT ndim shape size T")
METHODS = _names(
    """
    __abs__ __array_namespace__ __bool__ __complex__ __dlpack__ __dlpack_device__ __float__ __getitem__ __index__
    __int__ __invert__ __neg__ __pos__ __setitem__ to_device
    """
)
_ARITHMETIC = _names("add sub mul truediv floordiv mod pow matmul and or xor lshift rshift")
LEFT = tuple(f"__{name}__" for name in _ARITHMETIC)
"""Operators that have a reflected and an in-place form."""
OPERATORS = (*LEFT, *_names("__eq__ __ge__ __gt__ __le__ __lt__ __ne__"))
REFLECTED = tuple(f"__r{name}__" for name in _ARITHMETIC)
IN_PLACE = tuple(f"__i{name}__" for name in _ARITHMETIC)
