"""Standard normals for a pytree: those of `jax.random.normal`, in one pass over memory.

On a CPU, `jax.random` runs Threefry as a loop over whole arrays, which is most of the cost of
noise. Written out per coordinate, it gives the same bits and fuses with the operations that follow.
Each value depends only on the index of its coordinate, so XLA can shard leaves freely.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tsam_jax import _mesh, _tree
from tsam_jax._checks import Params

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_ZERO = np.uint32(0)
_SHORT, _PIECE, _FEW = 4096, 65536, 8  # entries, entries, leaves
_TWO_THIRDS = 0x3F2AAAAB  # the bits of 2/3 in float32

# Chebyshev fits, highest power first: (log(1 + x) - x) / x^2 for 1 + x in [2/3, 4/3], within
# 8e-6; and z in terms of sqrt(-2 log P(Z > z)) - 3.5 for z from 0 to P(Z > z) = 2^-25, within 2e-5.
_LOG = (0.16729102, -0.18989818, 0.19858718, -0.24899696, 0.33335334, -0.5000063)
_QUANTILE = (
    *(2.9212533e-06, -1.1141748e-05, 3.1771915e-06, -2.0736135e-05, 0.00029965513),
    *(-0.0012469876, 0.005041342, -0.02312226, 1.1132952, 2.8497696),
)


def normal(key: jax.Array, params: Params) -> Params:
    """Standard normals in float32 or wider, one key per leaf, in the shapes of `params`."""
    return normal_and_norm(key, params)[0]


def normal_and_norm(key: jax.Array, params: Params) -> tuple[Params, jax.Array]:
    """Standard normals and their Euclidean norm, in the same pass."""
    leaves, structure = jax.tree.flatten(params)
    if not leaves:
        return params, jnp.zeros((), _tree.accumulator_dtype(params))
    z, norm = _normals(key, tuple(_Leaf(tuple(x.shape), _tree.wide_dtype(x)) for x in leaves))
    return jax.tree.unflatten(structure, z), norm


class _Leaf(NamedTuple):
    """Shape and dtype of a leaf: with the key, they determine its normals."""

    shape: tuple[int, ...]
    dtype: jnp.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@functools.partial(jax.jit, static_argnames=("leaves",))  # compiles the loops once
def _normals(key: jax.Array, leaves: tuple[_Leaf, ...]) -> tuple[list[jax.Array], jax.Array]:
    # equals optax.tree.random_like(key, params, sampler=jax.random.normal), to 3e-5 in float32
    keys = jax.random.split(key, len(leaves))
    z, squares = _draw_in_loops(keys, leaves)
    others = {i: x for i, x in enumerate(leaves) if i not in z}
    z |= {i: _draw(keys[i], x.shape, x.dtype) for i, x in others.items()}
    rest = {i: z[i] for i in others}
    squares = squares.astype(_tree.accumulator_dtype(list(z.values())))
    norm = jnp.sqrt(_tree.inner(rest, rest).astype(squares.dtype) + squares)  # cannot overflow
    return [z[i] for i in range(len(leaves))], norm


def _draw(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
    z: jax.Array
    if not _is_ours(key, dtype) or math.prod(shape) >= 2**32:
        z = jax.random.normal(key, shape, dtype)
        return z * math.sqrt(2) if jnp.iscomplexobj(z) else z  # jax has E|z|^2 = 1
    z = _draw_float32(key, tuple(shape))
    return z


def _draw_in_loops(
    keys: jax.Array, leaves: Sequence[_Leaf]
) -> tuple[dict[int, jax.Array], jax.Array]:
    """Normals of short leaves, and of long ones if many, by index; and their sum of squares."""
    # XLA:CPU would compile the long program of a draw once for every leaf, and again in each
    # operation it fuses with. It does not fuse loops. Leaves on several devices are drawn whole.
    if not _mesh.on_one_cpu():
        return {}, jnp.zeros((), jnp.float32)
    ours = [
        i for i, x in enumerate(leaves) if x.size and x.size < 2**32 and _is_ours(keys, x.dtype)
    ]
    short = [i for i in ours if leaves[i].size <= _SHORT]
    long = [i for i in ours if leaves[i].size > _SHORT]
    length = max((leaves[i].size for i in short), default=0)
    z, squares = _draw_pieces(keys, leaves, short, length)
    if len(long) > _FEW:
        others, more = _draw_pieces(keys, leaves, long, _PIECE)
        return z | others, squares + more
    return z, squares


def _draw_pieces(
    keys: jax.Array, leaves: Sequence[_Leaf], which: Sequence[int], length: int
) -> tuple[dict[int, jax.Array], jax.Array]:
    """The normals of some leaves, drawn in pieces of equal length, and the sum of their squares."""
    starts = [(i, start) for i in which for start in range(0, leaves[i].size, length)]
    if not starts:
        return {}, jnp.zeros((), jnp.float32)
    owners, offsets = np.array(starts).T
    counts = np.array([leaves[i].size for i in owners]) - offsets  # entries after the offset
    offsets, counts = offsets.astype(np.uint32), np.minimum(counts, length).astype(np.int32)

    def draw(piece: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        key, offset, count = piece
        z = _draw_float32(key, (length,), offset)
        is_drawn = jnp.arange(length, dtype=count.dtype) < count
        return z, jnp.sum(jnp.where(is_drawn, jnp.square(z), 0))

    rows, squares = lax.map(draw, (keys[owners], offsets, counts))
    z, drawn = rows.ravel(), {}
    for i in which:
        first = length * int(np.searchsorted(owners, i))
        drawn[i] = z[first : first + leaves[i].size].reshape(leaves[i].shape)
    return drawn, jnp.sum(squares)


def _is_ours(key: jax.Array, dtype: jnp.dtype) -> bool:
    return dtype == jnp.float32 and jax.random.key_impl(key) == "threefry2x32"


@functools.partial(jax.jit, static_argnames=("shape",))
def _draw_float32(
    key: jax.Array, shape: tuple[int, ...], start: jax.Array | np.uint32 = _ZERO
) -> jax.Array:
    return _quantile(_uniform(_bits(key, shape, start)))


def _bits(key: jax.Array, shape: Sequence[int], start: jax.Array | np.uint32 = _ZERO) -> jax.Array:
    """32 random bits per coordinate: those of `jax.random.bits` from index `start` on."""
    # Threefry of the words (0, index) in 20 rounds, after Salmon et al., "Parallel Random Numbers:
    # As Easy as 1, 2, 3", SC 2011; the bits are the exclusive or of the two resulting words.
    first, second = jax.random.key_data(key)
    keys = (first, second, first ^ second ^ _PARITY)
    x: jax.Array
    y: jax.Array
    x, y = jnp.broadcast_to(keys[0], shape), _index(shape, keys[1] + start)
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << rotation) | (y >> (32 - rotation))) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x ^ y


def _index(shape: Sequence[int], start: jax.Array) -> jax.Array:
    """The index of each coordinate of an array in row-major order from `start` on, uint32."""
    # `start` comes first: XLA would hoist constant indices out of a loop over samples and read them
    # from memory in every iteration.
    index = jnp.broadcast_to(start, shape)
    stride = 1
    for axis in reversed(range(len(shape))):
        index = index + lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
        stride *= max(shape[axis], 1)
    return index


def _uniform(bits: jax.Array) -> jax.Array:
    """Uniform on (-1, 1): the midpoints of 2^23 intervals."""
    between_1_and_2 = lax.bitcast_convert_type((bits >> 9) | np.uint32(0x3F800000), jnp.float32)
    return 2 * (between_1_and_2 - 1) - np.float32(1 - 2**-24)


def _quantile(u: jax.Array) -> jax.Array:
    """Maps uniforms on (-1, 1) to standard normals: P(|Z| <= |z|) = |u|."""
    z = _polynomial(_QUANTILE, jnp.sqrt(2 * math.log(2) - 2 * _log(1 - jnp.abs(u))) - 3.5)
    return jnp.copysign(z, u)


def _log(y: jax.Array) -> jax.Array:
    """Logarithm of positive float32 numbers from their bits, to 3e-6; cheaper than XLA's."""
    bits = lax.bitcast_convert_type(y, jnp.int32)
    exponent = (bits - _TWO_THIRDS) >> 23  # y = 2^exponent (1 + x)
    x = lax.bitcast_convert_type(bits - (exponent << 23), jnp.float32) - 1
    return exponent.astype(jnp.float32) * math.log(2) + (x + x * x * _polynomial(_LOG, x))


def _polynomial(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    highest, second, *others = coefficients
    return functools.reduce(lambda p, c: p * x + c, others, highest * x + second)
