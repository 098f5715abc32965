"""The small operations of a decoder layer on a CPU, each as one compiled function: Numba, kept on disk.

They compute in float32 and round to the dtype of the weights where torch's operations do. Tensors are given
as addresses, which takes a tenth of the time of an array; rows are contiguous. `like` is an empty array of
the element type: float32, or uint16 for bfloat16, which numpy does not have. A function runs on one core.
"""

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

# Sums may be vectorised, that is, added up in another order; infinities and NaN stay what they are.
_FREELY = {"reassoc", "contract", "nsz", "arcp"}

_compiled = njit(cache=True, error_model="numpy", fastmath=_FREELY)
# For comparisons alone: they are only vectorised if there is no NaN.
_compiled_without_nan = njit(cache=True, error_model="numpy", fastmath={*_FREELY, "nnan"})


@intrinsic
def _float_of(_context, _bits):
    """The float32 that has these 32 bits."""
    return types.float32(types.uint32), lambda _, builder, __, given: builder.bitcast(
        given[0], ir.FloatType()
    )


@intrinsic
def _bits_of(_context, _value):
    """The 32 bits of a float32."""
    return types.uint32(types.float32), lambda _, builder, __, given: builder.bitcast(
        given[0], ir.IntType(32)
    )


@intrinsic
def _pointer(_context, _address, like):
    """An address as a pointer to elements of the type of `like`, or of its elements."""
    pointer = types.CPointer(getattr(like, "dtype", like))

    def convert(context, builder, _signature, given):
        return builder.inttoptr(given[0], context.get_value_type(pointer))

    return pointer(types.int64, like), convert


@intrinsic
def _prefetch(_context, _address):
    """Begins to fetch a line of memory into the caches."""

    def begin(_, builder, __, given):
        byte, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        reads, keeps, is_data = whole(0), whole(3), whole(1)
        builder.call(function, [builder.inttoptr(given[0], byte), reads, keeps, is_data])
        return cgutils.get_null_value(ir.IntType(8).as_pointer())

    return types.none(types.int64), begin


@_compiled
def _row(address, index, size, like):
    """Row `index` of rows of `size` elements that begin at an address."""
    return carray(_pointer(address + index * size * like.itemsize, like), (size,))


@_compiled
def _floats(address, size):
    return carray(_pointer(address, np.float32(0)), (size,))


@_compiled
def _ids(address, size):
    return carray(_pointer(address, np.int64(0)), (size,))


def _wide(_element):
    """An element as float32."""


def _narrow(_value, _like):
    """A float32 as an element: rounded to nearest, ties to even; NaN stays NaN."""


@overload(_wide)
def _wide_of(element):
    if element == types.uint16:
        return lambda element: _float_of(np.uint32(element) << np.uint32(16))
    return lambda element: element


@overload(_narrow)
def _narrow_of(value, like):
    if like.dtype != types.uint16:
        return lambda value, like: value

    def round_half_to_even(value, like):
        bits = _bits_of(value)
        half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        return np.uint16((np.uint32(0x7FC00000) if is_nan else bits + half) >> np.uint32(16))

    return round_half_to_even


@_compiled
def _rounded(value, like):
    return _wide(_narrow(value, like))


@_compiled
def _exp(x):
    """e^x in float32, as a polynomial so that it is vectorised; to about one unit in the last place."""
    x = min(max(x, np.float32(-87)), np.float32(88))
    # e^x = 2^n e^r; ln 2 in two parts, of which n times the first is exact.
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) - n * np.float32(-2.12194440e-4)
    # Minimax coefficients of `expf` in Cephes (netlib.org/cephes).
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    power = _float_of(np.uint32(np.int32(n) + np.int32(127)) << np.uint32(23))
    return (p * r * r + r + np.float32(1)) * power


@_compiled
def _scale_row(like, row, weight, out, eps):
    """RMSNorm of one row."""
    total = np.float32(0)
    for j in range(len(row)):
        total += _wide(row[j]) * _wide(row[j])
    factor = np.float32(1) / np.sqrt(total / np.float32(len(row)) + np.float32(eps))
    for j in range(len(row)):
        out[j] = _narrow(_wide(row[j]) * factor * weight[j], like)


@_compiled
def norm(like, x, weight, out, num_rows, size, eps):
    """RMSNorm of rows `(num_rows, size)`, with a weight `(size,)` in float32."""
    scales = _floats(weight, size)
    for index in range(num_rows):
        _scale_row(like, _row(x, index, size, like), scales, _row(out, index, size, like), eps)


@_compiled
def add_and_norm(like, x, y, weight, out, num_rows, size, eps):
    """Adds x to y, then RMSNorm of y, of rows `(num_rows, size)`."""
    scales = _floats(weight, size)
    for index in range(num_rows):
        added, total = _row(x, index, size, like), _row(y, index, size, like)
        for j in range(size):
            total[j] = _narrow(_wide(added[j]) + _wide(total[j]), like)
        _scale_row(like, total, scales, _row(out, index, size, like), eps)


@_compiled
def embed_and_norm(like, table, num_ids, ids, of_table, hidden, of_hidden, out, num_rows, size, eps):
    """RMSNorm of embeddings and of hidden states, side by side.

    Args:
        like: element type.
        table: embeddings `(num_ids, size)`.
        num_ids: of them.
        ids: of the tokens `(num_rows,)`, int64.
        of_table: weight of the norm of embeddings `(size,)`, float32.
        hidden: hidden states `(num_rows, size)`.
        of_hidden: weight of their norm, likewise.
        out: `(num_rows, 2 x size)`.
        num_rows: tokens.
        size: of a hidden state.
        eps: of both norms.
    """
    left, right, tokens = _floats(of_table, size), _floats(of_hidden, size), _ids(ids, num_rows)
    for index in range(num_rows):
        if not 0 <= tokens[index] < num_ids:
            raise IndexError("a token id without an embedding")
        embedding = _row(table, tokens[index], size, like)
        _scale_row(like, embedding, left, _row(out, 2 * index, size, like), eps)
        _scale_row(like, _row(hidden, index, size, like), right, _row(out, 2 * index + 1, size, like), eps)


@_compiled
def gated(like, gate_up, out, num_rows, size):
    """SiLU(gate) x up, of rows `(num_rows, 2 x size)` to `(num_rows, size)`."""
    for index in range(num_rows):
        gate, up = _row(gate_up, 2 * index, size, like), _row(gate_up, 2 * index + 1, size, like)
        row = _row(out, index, size, like)
        for j in range(size):
            x = _wide(gate[j])
            row[j] = _narrow(_rounded(x / (np.float32(1) + _exp(-x)), like) * _wide(up[j]), like)


@_compiled
def _turned(first, second, cos, sin, like):
    by_cos, by_sin = _wide(first) * _wide(cos), _wide(second) * _wide(sin)
    return _rounded(_rounded(by_cos, like) + _rounded(by_sin, like), like)


@_compiled
def _rotate(like, x, cos, sin, out):
    """Rotates a head, halves paired as in Llama; `sin` as `layers.signed_sin`."""
    half = len(out) // 2
    for j in range(half):
        out[j] = _turned(x[j], x[j + half], cos[j], sin[j], like)
    for j in range(half):
        out[j + half] = _turned(x[j + half], x[j], cos[j + half], sin[j + half], like)


@_compiled
def rotate_and_store(
    like, qkv, cos, sin, keys, values, queries, num_rows, start,
    room, heads, kv_heads, head_dim, q_weight, k_weight, eps,
):  # fmt: skip
    """Rotates queries and keys of new tokens, and stores keys and values.

    Args:
        like: element type.
        qkv: joined projections of the new tokens `(num_rows, (heads + 2 kv_heads) x head_dim)`.
        cos: of every position `(positions, head_dim)`.
        sin: as `layers.signed_sin`, likewise.
        keys: buffer `(kv_heads, room, head_dim)`, written from position `start`.
        values: as `keys`.
        queries: where rotated queries go `(heads, num_rows, head_dim)`.
        num_rows: new tokens.
        start: positions that are held.
        room: positions of the buffers.
        heads: of queries.
        kv_heads: of keys and values.
        head_dim: width of one.
        q_weight: of the RMSNorm of queries `(head_dim,)`, float32; 0 without.
        k_weight: of keys, likewise.
        eps: of both.
    """
    turned, normed = np.empty(head_dim, np.float32), np.empty(head_dim, like.dtype)
    width = heads + 2 * kv_heads
    for i in range(num_rows):
        c, s = _row(cos, start + i, head_dim, like), _row(sin, start + i, head_dim, like)
        for head in range(heads + kv_heads):
            x, weight = _row(qkv, i * width + head, head_dim, like), q_weight if head < heads else k_weight
            if weight:
                _scale_row(like, x, _floats(weight, head_dim), normed, eps)
                _rotate(like, normed, c, s, turned)
            else:
                _rotate(like, x, c, s, turned)
            if head < heads:
                to = _row(queries, head * num_rows + i, head_dim, like)
            else:
                to = _row(keys, (head - heads) * room + start + i, head_dim, like)
            for j in range(head_dim):
                to[j] = _narrow(turned[j], like)
        for head in range(kv_heads):
            value = _row(qkv, i * width + heads + kv_heads + head, head_dim, like)
            to = _row(values, head * room + start + i, head_dim, like)
            for j in range(head_dim):
                to[j] = value[j]


# Positions that are read at a time, so that a vector of queries or sums is loaded once for all of them.
_BLOCK = 8


@_compiled
def _read_block(like, rows, first, last, block, soon):
    """Rows from `first` on as float32 `(_BLOCK, head_dim)`; behind `last` that one again.

    Meanwhile it begins to fetch the rows at the same place of `soon`, which are read next.
    """
    size = block.shape[1] * like.itemsize
    for line in range(soon + first * size, soon + (first + _BLOCK) * size, 64):
        _prefetch(line)
    for b in range(_BLOCK):
        row = _row(rows, min(first + b, last), block.shape[1], like)
        for j in range(block.shape[1]):
            block[b, j] = _wide(row[j])


@_compiled_without_nan
def _largest(row, size):
    """Of the first `size` elements, as float32."""
    most = _wide(row[0])
    for j in range(size):
        most = max(most, _wide(row[j]))
    return most


@_compiled
def _softmax(scores, seen):
    """Over the first `seen` scores, in place; the others become 0."""
    most, total = _largest(scores, seen), np.float32(0)
    for p in range(seen):
        scores[p] = _exp(scores[p] - most)
        total += scores[p]
    for p in range(seen):
        scores[p] /= total
    for p in range(seen, len(scores)):
        scores[p] = np.float32(0)


@_compiled
def attend(
    like, queries, keys, values, out, num_rows, start, room,
    heads, kv_heads, head_dim, scale,
):  # fmt: skip
    """Causal attention of the newest tokens over all `start + num_rows` positions.

    Args:
        like: element type.
        queries: rotated `(heads, num_rows, head_dim)`.
        keys: buffer `(kv_heads, room, head_dim)`.
        values: as `keys`.
        out: `(num_rows, heads x head_dim)`.
        num_rows: new tokens.
        start: positions before them.
        room: positions of the buffers.
        heads: of queries.
        kv_heads: of keys and values.
        head_dim: width of one.
        scale: of the scores.
    """
    group, length = heads // kv_heads, start + num_rows
    padded = -(-length // _BLOCK) * _BLOCK
    rows = group * num_rows
    q, total = np.empty((rows, head_dim), np.float32), np.empty((rows, head_dim), np.float32)
    # Rows that are no power of two apart, which would share a set of the cache.
    scores = np.empty((rows, padded + _BLOCK), np.float32)
    block = np.empty((_BLOCK, head_dim), np.float32)
    for line in range(keys, keys + length * head_dim * like.itemsize, 64):
        _prefetch(line)
    for head in range(kv_heads):
        for r in range(rows):
            query = _row(queries, head * rows + r, head_dim, like)
            for j in range(head_dim):
                q[r, j] = _wide(query[j]) * np.float32(scale)
                total[r, j] = np.float32(0)
        of_keys = keys + head * room * head_dim * like.itemsize
        of_values = values + head * room * head_dim * like.itemsize
        for p in range(0, padded, _BLOCK):
            _read_block(like, of_keys, p, length - 1, block, of_values)
            for r in range(rows):
                s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0)
                for j in range(head_dim):
                    x = q[r, j]
                    s0 += x * block[0, j]
                    s1 += x * block[1, j]
                    s2 += x * block[2, j]
                    s3 += x * block[3, j]
                    s4 += x * block[4, j]
                    s5 += x * block[5, j]
                    s6 += x * block[6, j]
                    s7 += x * block[7, j]
                scores[r, p], scores[r, p + 1], scores[r, p + 2], scores[r, p + 3] = s0, s1, s2, s3
                scores[r, p + 4], scores[r, p + 5], scores[r, p + 6], scores[r, p + 7] = s4, s5, s6, s7
        for r in range(rows):
            _softmax(scores[r], start + r % num_rows + 1)
        for p in range(0, padded, _BLOCK):
            _read_block(like, of_values, p, length - 1, block, of_keys + room * head_dim * like.itemsize)
            for r in range(rows):
                s = scores[r, p : p + _BLOCK]
                s0, s1, s2, s3, s4, s5, s6, s7 = s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
                for j in range(head_dim):
                    total[r, j] += (
                        (s0 * block[0, j] + s1 * block[1, j] + s2 * block[2, j] + s3 * block[3, j])
                        + (s4 * block[4, j] + s5 * block[5, j] + s6 * block[6, j] + s7 * block[7, j])
                    )  # fmt: skip
        for r in range(rows):
            to = _row(out, r % num_rows * heads + head * group + r // num_rows, head_dim, like)
            for j in range(head_dim):
                to[j] = _narrow(total[r, j], like)


@_compiled
def store_and_attend(
    like, qkv, cos, sin, keys, values, out, num_rows, start,
    room, heads, kv_heads, head_dim, q_weight, k_weight, eps, scale,
):  # fmt: skip
    """`rotate_and_store`, then `attend`; arguments as theirs."""
    queries = np.empty(heads * num_rows * head_dim, like.dtype)
    at = np.int64(queries.ctypes.data)
    rotate_and_store(
        like, qkv, cos, sin, keys, values, at, num_rows, start, room, heads, kv_heads, head_dim,
        q_weight, k_weight, eps,
    )  # fmt: skip
    attend(like, at, keys, values, out, num_rows, start, room, heads, kv_heads, head_dim, scale)
    # Until here it must not be freed.
    queries[0] = queries[0]


@_compiled
def best(like, logits, names, out, num_rows, size):
    """The name of the largest of each row `(num_rows, size)`; among equals of the first.

    Args:
        like: element type.
        logits: the rows.
        names: of the columns `(size,)`, int64; 0: their numbers.
        out: `(num_rows,)`, int64.
        num_rows: of them.
        size: columns.
    """
    found = _ids(out, num_rows)
    for index in range(num_rows):
        row = _row(logits, index, size, like)
        most, place = _largest(row, size), 0
        # By blocks, as a search is not vectorised.
        for first in range(0, size, 256):
            last, is_here = min(first + 256, size), 0
            for j in range(first, last):
                is_here |= _wide(row[j]) == most
            if is_here:
                for j in range(first, last):
                    if _wide(row[j]) == most:
                        place = j
                        break
                break
        found[index] = _ids(names, size)[place] if names else place
