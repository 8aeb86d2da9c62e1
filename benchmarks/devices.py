"""Count the memory traffic of every loss on accelerators, from the programs that XLA compiles: Markdown tables.

``python benchmarks/devices.py`` compiles each loss for an NVIDIA H100 and a TPU v5e, and counts the bytes that the
program moves through device memory; ``--device`` names other devices. The compilers come with the extra `devices` and
need no accelerator: nothing is run.

The first table has the elementwise losses, which are bound by memory. Its unit is one array of N = 1e8 float32 numbers
(0.4 GB). The floor reads each input once and writes each gradient once; a comment names each row that must read an
input twice. The columns beside the floor are the traffic of jaxbce, of optax and of the formula by hand, the last two
under autodiff. XLA estimates a time for TPU only.

The second table has the losses that compute their logits in a loop, beside the same step on all logits at once.

Rules of the count, from the text of the compiled program:

- A kernel moves its result and its distinct operands. Parameters, constants, tuples and bitcasts are no kernels.
- A slice or gather reads the entries of its result. A slice or scatter in place writes the entries of its update.
- A layout with a memory space, `S(1)`, is on-chip memory and costs nothing.
- The body of a loop counts once for each trip. A conditional counts the branch that moves most.

The count is an upper bound, since a cache may hold a result until the next kernel reads it. Padding does not count. On
TPU every operation of the program is a kernel, including those of the scalar unit.
"""

import argparse
import functools
import importlib.metadata
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import jaxbce

Function = Callable[..., Any]

# --- Devices ------------------------------------------------------------------------------------------------------


class Device(NamedTuple):
    """A compilation target: its name, its platform, and the arguments of its topology."""

    name: str
    platform: str
    topology: dict[str, Any]

    @property
    def wheels(self) -> tuple[str, ...]:
        """The distributions of its compiler."""
        return _WHEELS[self.platform]


_WHEELS = {
    "tpu": ("libtpu",),
    "cuda": ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-nvjitlink"),
}


def _tpu(name: str, topology: str, chips: tuple[int, int, int]) -> Device:
    return Device(name, "tpu", {"topology_name": topology, "chips_per_host_bounds": chips, "num_slices": 1})


def _gpu(name: str, capability: str, **fields: float) -> Device:
    """Describe a GPU by the fields that differ among the files of OpenXLA's `target_config/specs`."""
    common = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    info = " ".join(f"{field}: {value}" for field, value in {**common, **fields}.items())
    text = (
        f"gpu_device_info {{ {info} cuda_compute_capability {{ {capability} }} }} "
        f'platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"'
    )
    return Device(name, "cuda", {"topology_name": "1x1x1", "topology": "1x1x1", "target_config": text})


_HOPPER = {
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
    "core_count": 132,
    "fpus_per_core": 128,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
}

DEVICES = {
    device.name: device
    for device in (
        _gpu("H100", "major: 9", **_HOPPER, memory_bandwidth=3352320000000, device_memory_size=84942979072),
        _tpu("TPU v5e", "v5e:1x1", (1, 1, 1)),
        _gpu(
            "A100",
            "major: 8",
            shared_memory_per_core=167936,
            shared_memory_per_block_optin=166912,
            core_count=108,
            fpus_per_core=64,
            l2_cache_size=41943040,
            clock_rate_ghz=1.41,
            memory_bandwidth=2039040000000,
            device_memory_size=85100068864,
        ),
        _gpu("H200", "major: 9", **_HOPPER, memory_bandwidth=4800000000000, device_memory_size=151397597184),
        _gpu(
            "B200",
            "major: 10",
            shared_memory_per_core=233472,
            shared_memory_per_block_optin=232448,
            core_count=148,
            fpus_per_core=128,
            l2_cache_size=132644864,
            clock_rate_ghz=1.965,
            memory_bandwidth=7672320000000,
            device_memory_size=191514411008,
        ),
        _tpu("TPU v6e", "v6e:1x1", (1, 1, 1)),
        _tpu("TPU v5p", "v5p:2x2x1", (2, 2, 1)),
    )
}
"""The compilation targets by name."""

DEFAULT = ("H100", "TPU v5e")


def missing_wheels(device: Device) -> list[str]:
    """Return the distributions of the device's compiler that are not installed."""

    def absent(wheel: str) -> bool:
        try:
            importlib.metadata.version(wheel)
        except importlib.metadata.PackageNotFoundError:
            return True
        return False

    return [wheel for wheel in device.wheels if absent(wheel)]


_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""The environment of libtpu without a TPU: no query of the host's metadata, and no lock against other processes.

`TPU_ACCELERATOR_TYPE` describes the host alone; programs are compiled for the topology of the `Device`.
"""


@functools.cache
def _sharding(name: str) -> SingleDeviceSharding:
    device = DEVICES[name]
    if device.platform == "tpu":  # set it before the first get_topology_desc, which loads libtpu
        os.environ.update({**_LIBTPU, **os.environ})
    described = topologies.get_topology_desc(platform=device.platform, **device.topology)
    return SingleDeviceSharding(described.devices[0])


def lower_for(device: Device, function: Function, *arguments: Any) -> Any:
    """Lower a function for the device, on arguments of these shapes and dtypes; needs no such device."""
    sharding = _sharding(device.name)
    placed = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), arguments)
    return jax.jit(function).trace(*placed).lower(lowering_platforms=(device.platform,))


def compile_for(device: Device, function: Function, *arguments: Any) -> Any:
    """Compile a function for the device, on arguments of these shapes and dtypes."""
    return lower_for(device, function, *arguments).compile()


# --- The text of a compiled program -------------------------------------------------------------------------------


class Buffer(NamedTuple):
    """An array of an instruction's type: its number of entries, the bytes of an entry, and its place.

    `stored` is True in device memory, False in on-chip memory.
    """

    entries: int
    width: float
    stored: bool

    def bytes(self, entries: float | None = None) -> float:
        """Return the traffic of this number of entries, None for all, in bytes."""
        moved = self.entries if entries is None else min(entries, self.entries)
        return moved * self.width * self.stored


class Instruction(NamedTuple):
    """An instruction: one line of a computation."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    literal: str  # the text between the parentheses
    attributes: str

    @property
    def buffers(self) -> list[Buffer]:
        """The arrays of the result."""
        return list(map(_buffer, _ARRAY.finditer(self.type)))

    @property
    def entries(self) -> int:
        """The number of entries of the result, all arrays together."""
        return sum(buffer.entries for buffer in self.buffers)

    def called(self, attribute: str) -> str:
        """Return the name of the computation that an attribute calls, or an empty string."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""


class Computation(NamedTuple):
    """A computation: its instructions by name, in order, and the name of its root."""

    instructions: dict[str, Instruction]
    root: str

    @property
    def parameters(self) -> dict[int, str]:
        """The names of the parameters by their number."""
        return {int(i.literal): i.name for i in self.instructions.values() if i.opcode == "parameter"}

    def users(self, name: str) -> Iterator[tuple[Instruction, int]]:
        """Yield each instruction with this operand, and the operand's position."""
        for instruction in self.instructions.values():
            for position, operand in enumerate(instruction.operands):
                if operand == name:
                    yield instruction, position


_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")


def _buffer(array: re.Match[str]) -> Buffer:
    dtype, shape, layout = array.groups()
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 8 * (dtype == "pred")
    space = re.search(r"S\((\d+)\)", layout or "")
    entries = math.prod(int(size.strip("<=")) for size in shape.split(",") if size)
    return Buffer(entries, bits / 8, stored=space is None or space[1] == "0")


def _closing_parenthesis(text: str, opening: int) -> int:
    """Return the position of the parenthesis that closes the one at `opening`."""
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    raise ValueError(f"unbalanced parenthesis in the program: {text}")


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing_parenthesis(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", end)
    closing = _closing_parenthesis(rest, opening)
    literal = rest[opening + 1 : closing]
    operands = tuple(re.findall(r"%([\w.\-]+)", literal))
    return Instruction(name, rest[:end], rest[end:opening].strip(), operands, literal, rest[closing + 1 :])


def parse(text: str) -> tuple[dict[str, Computation], Computation]:
    """Parse a compiled program; return its computations by name, and its entry computation."""
    computations: dict[str, Computation] = {}
    instructions: dict[str, Instruction] = {}
    entry = name = root = ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name, instructions = header[2], {}
            entry = name if header[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(instructions, root)
        elif found := re.match(r"\s+(ROOT )?%([\w.\-]+) = (.*)", line):
            instructions[found[2]] = _instruction(found[2], found[3])
            root = found[2] if found[1] else root
    return computations, computations[entry]


# --- Traffic ------------------------------------------------------------------------------------------------------


class Kernel(NamedTuple):
    """A kernel: its number of runs in one call, and the bytes that one run moves."""

    name: str
    opcode: str
    times: int
    bytes: float


class Traffic(NamedTuple):
    """The memory traffic of one call of a compiled program.

    Attributes:
        bytes: moved through device memory.
        kernels: number of kernel runs.
        temporary: bytes of temporary memory, beside arguments and results.
        seconds: XLA's estimate of the time. None on GPU, and None with a loop, since XLA counts its body once.
        heaviest: the kernels in descending order of their bytes.
    """

    bytes: float
    kernels: int
    temporary: int
    seconds: float | None
    heaviest: tuple[Kernel, ...]


_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_FREE_CALLS = ("AllocateBuffer", "AssumeGatherIndicesInBound")
_VIEWS = {"bitcast", "reshape", "transpose", "convert", "copy"}
_SLICES = {"slice", "dynamic-slice", "gather"}


def measure(compiled: Any) -> Traffic:
    """Measure the traffic of a compiled program."""
    text = compiled.as_text()
    kernels = sorted(count(text), key=lambda kernel: -kernel.times * kernel.bytes)
    estimate = compiled.cost_analysis() or {}
    looped = any(kernel.times > 1 for kernel in kernels)
    return Traffic(
        bytes=sum(kernel.times * kernel.bytes for kernel in kernels),
        kernels=sum(kernel.times for kernel in kernels),
        temporary=compiled.memory_analysis().temp_size_in_bytes,
        seconds=None if looped else estimate.get("optimal_seconds"),
        heaviest=tuple(kernels),
    )


def count(text: str) -> list[Kernel]:
    """Return the kernels of a program, from the text of `as_text`."""
    computations, entry = parse(text)
    return list(_kernels(computations, entry, 1))


def _kernels(computations: dict[str, Computation], computation: Computation, times: int) -> Iterator[Kernel]:
    for instruction in computation.instructions.values():
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done") or any(name in instruction.attributes for name in _FREE_CALLS):
            continue
        if opcode == "while":
            trips = _trip_count(computations, computation, instruction)
            yield from _kernels(computations, computations[instruction.called("body")], times * trips)
        elif opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names = re.findall(r"%([\w.\-]+)", branches[1]) if branches else []
            names = names or [instruction.called("true_computation"), instruction.called("false_computation")]
            candidates = [list(_kernels(computations, computations[name], times)) for name in names]
            yield from max(candidates, key=lambda kernels: sum(kernel.times * kernel.bytes for kernel in kernels))
        elif opcode in ("call", "async-start"):
            name = instruction.called("to_apply") or instruction.called("calls")
            yield from _kernels(computations, computations[name], times)
        else:
            yield Kernel(instruction.name, opcode, times, _bytes_moved(computations, computation, instruction))


def _bytes_moved(computations: dict[str, Computation], computation: Computation, kernel: Instruction) -> float:
    """Return the bytes that one run of a kernel reads and writes."""
    read: dict[str, float] = {}
    whole: dict[str, float] = {}
    for position, name in enumerate(kernel.operands):
        source, buffers = _buffer_name(computation, name), computation.instructions[name].buffers
        taken = _operand_entries(computations, kernel, position, computation) if len(buffers) == 1 else None
        read[source] = read.get(source, 0) + sum(buffer.bytes(taken) for buffer in buffers)
        whole[source] = sum(buffer.bytes() for buffer in buffers)
    return sum(min(read[source], whole[source]) for source in read) + _bytes_written(computations, computation, kernel)


def _buffer_name(computation: Computation, name: str) -> str:
    """Resolve bitcasts and tuple elements, so that operands of the same buffer share one name."""
    instruction = computation.instructions[name]
    if instruction.opcode == "bitcast":
        return _buffer_name(computation, instruction.operands[0])
    if instruction.opcode == "get-tuple-element":
        held = computation.instructions[instruction.operands[0]]
        index = int(re.search(r"index=(\d+)", instruction.attributes)[1])
        return _buffer_name(computation, held.operands[index]) if held.opcode == "tuple" else f"{held.name} {index}"
    return name


def _entries_in_place(instruction: Instruction, computation: Computation) -> int | None:
    """Return the number of entries that an instruction updates in place; None if it writes a new array."""
    if instruction.opcode == "dynamic-update-slice":
        update = instruction.operands[1]
    elif instruction.opcode == "scatter":
        update = instruction.operands[-1]
    else:
        return None
    written_over = _through_bitcasts(computation, computation.instructions[instruction.operands[0]])
    fresh = written_over.opcode in ("broadcast", "constant", "iota")
    return None if fresh else computation.instructions[update].entries


def _through_bitcasts(computation: Computation, instruction: Instruction) -> Instruction:
    """Return the operand behind any bitcasts."""
    bitcast = instruction.opcode == "bitcast"
    return _through_bitcasts(computation, computation.instructions[instruction.operands[0]]) if bitcast else instruction


def _outputs(computation: Computation) -> list[Instruction]:
    """Return the outputs of a fused computation, one instruction for each buffer."""
    root = computation.instructions[computation.root]
    names = root.operands if root.opcode == "tuple" else (computation.root,)
    found = [_through_bitcasts(computation, computation.instructions[name]) for name in names]
    # Repeat a variadic reduction, which is one instruction with several buffers.
    return [instruction for instruction in found for _ in instruction.buffers]


def _bytes_written(computations: dict[str, Computation], computation: Computation, kernel: Instruction) -> float:
    buffers = kernel.buffers
    if kernel.opcode == "copy-start":  # (the copy, its source, a flag)
        return buffers[0].bytes()
    if kernel.opcode == "fusion":
        fused = computations[kernel.called("calls")]
        outputs = [_entries_in_place(output, fused) for output in _outputs(fused)]
        return sum(buffer.bytes(entries) for buffer, entries in zip(buffers, outputs, strict=True))
    entries = _entries_in_place(kernel, computation)
    return sum(buffer.bytes(entries) for buffer in buffers)


def _operand_entries(
    computations: dict[str, Computation], user: Instruction, position: int, computation: Computation
) -> float | None:
    """Return the number of entries that an instruction reads of an operand; None for all."""
    if user.opcode == "fusion":
        fused = computations[user.called("calls")]
        return _value_entries(computations, fused, fused.parameters[position])
    if user.opcode in _SLICES and position == 0:
        return user.entries
    if user.opcode == "dynamic-update-slice" and position == 0:
        return 0
    if user.opcode == "scatter" and position < len(user.operands) // 2:
        return _entries_in_place(user, computation)
    return None


def _value_entries(computations: dict[str, Computation], fused: Computation, name: str) -> float | None:
    """Return the number of entries that a fused computation reads of one of its values; None for all."""
    outputs = _outputs(fused)
    if name == fused.root or fused.instructions[name] in outputs:
        return None
    total = 0.0
    for user, position in fused.users(name):
        if user.opcode in _VIEWS:
            taken = _value_entries(computations, fused, user.name)
        elif _entries_in_place(user, fused) is not None and user not in outputs:
            taken = None  # count all: a later instruction reads the result, so the update is not in place
        else:
            taken = _operand_entries(computations, user, position, fused)
        if taken is None:
            return None
        total += taken
    return total


def _trip_count(computations: dict[str, Computation], computation: Computation, loop: Instruction) -> int:
    """Return the trip count of a loop: `known_trip_count`, else the bound of a counter from 0 in steps of 1."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(known[1])
    condition = computations[loop.called("condition")]
    root = condition.instructions[condition.root]
    if root.opcode == "compare" and "direction=LT" in root.attributes:
        bound = condition.instructions[root.operands[1]]
        if bound.opcode == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", bound.attributes)[1])
            bound = computation.instructions[computation.instructions[loop.operands[0]].operands[index]]
        if bound.opcode == "constant":
            return int(bound.literal)
    raise ValueError(f"the program does not give the number of trips of a loop: {root}")


# --- Elementwise losses -------------------------------------------------------------------------------------------

N = 10**8
UNIT = 4 * N
"""Bytes of one array of N float32 numbers, the unit of the first table."""

ROWS, COLUMNS, POSITIVES = 100_000, 1_000, 10


class Row(NamedTuple):
    """A row of the first table: a quantity of a loss, as a function of its arrays.

    Attributes:
        title: the loss and its arguments.
        quantity: "mean", "value_and_grad", "none" or "Hessian-vector product".
        floor: the least traffic, in arrays of N float32 numbers.
        arrays: shapes and dtypes of the arguments.
        ours, by_hand, optax: the function in jaxbce, by hand and in optax; None if optax has no such loss.
    """

    title: str
    quantity: str
    floor: float
    arrays: tuple[jax.ShapeDtypeStruct, ...]
    ours: Function
    by_hand: Function
    optax: Function | None = None


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _mean(losses: Function) -> Function:
    return lambda *arrays: jnp.mean(losses(*arrays))


def _step(title: str, floor: float, arrays: tuple[Any, ...], *losses: Function | None) -> Row:
    """Build a row of the value and the gradient of the first array."""
    functions = (None if loss is None else jax.value_and_grad(loss) for loss in losses)
    return Row(title, "value_and_grad", floor, arrays, *functions)


def _hessian_vector_product(loss: Function) -> Function:
    """Return the Hessian-vector product of a loss."""
    return lambda x, y, v: jax.jvp(lambda x: jax.grad(loss)(x, y), (x,), (v,))[1]


def _bce(x: Any, y: Any) -> Any:
    return jax.nn.softplus(x) - x * y


def _pos_weighted(x: Any, y: Any) -> Any:
    return 3 * y * jax.nn.softplus(-x) + (1 - y) * jax.nn.softplus(x)


def _weighted_mean(x: Any, y: Any, weight: Any, losses: Function) -> Any:
    return jnp.sum(losses(x, y) * weight / jnp.sum(weight))


def _masked_mean(x: Any, y: Any, mask: Any) -> Any:
    """Divide inside the sum: after it, XLA counts the mask in a separate pass and reads every array once more."""
    return jnp.sum(jnp.where(mask, _bce(x, y), 0) * (1 / jnp.sum(mask)))


def _smoothed(x: Any, y: Any, losses: Function) -> Any:
    return jnp.mean(losses(x, 0.9 * y + 0.05))


def _probs(p: Any, y: Any) -> Any:
    return -(y * jnp.log(p) + (1 - y) * jnp.log1p(-p))


def _focal(x: Any, y: Any) -> Any:
    p = jax.nn.sigmoid(x)
    return (p + y - 2 * p * y) ** 2 * _bce(x, y)


def _balanced_focal(x: Any, y: Any) -> Any:
    return (0.25 * y + 0.75 * (1 - y)) * _focal(x, y)


def _asymmetric(x: Any, y: Any) -> Any:
    q = jnp.maximum(jax.nn.sigmoid(x) - 0.05, 0)
    return y * jax.nn.sigmoid(-x) * jax.nn.softplus(-x) - (1 - y) * q**4 * jnp.log1p(-q)


def _sparse(x: Any, positives: Any) -> Any:
    """Compute the mean loss of sparse labels, exact if no index occurs twice in a row."""
    return (jnp.sum(jax.nn.softplus(x)) - jnp.sum(jnp.take_along_axis(x, positives, -1))) / x.size


def _discriminator(real: Any, fake: Any) -> Any:
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def _classes(x: Any, labels: Any, *_: Any) -> Any:
    return jax.nn.logsumexp(x, -1) - jnp.take_along_axis(x, labels[:, None], -1)[:, 0]


def _class_weighted(x: Any, labels: Any, weight: Any) -> Any:
    each = weight[labels]
    return jnp.sum(_classes(x, labels) * (each / jnp.sum(each)))


def _class_smoothed(x: Any, labels: Any) -> Any:
    others = jax.nn.logsumexp(x, -1) - jnp.mean(x, -1)
    return jnp.mean(0.9 * _classes(x, labels) + 0.1 * others)


def _class_masked(x: Any, labels: Any, mask: Any) -> Any:
    return jnp.sum(jnp.where(mask, _classes(x, labels), 0) * (1 / jnp.sum(mask)))


def _class_probs(x: Any, y: Any) -> Any:
    return jnp.mean(-jnp.sum(y * jax.nn.log_softmax(x), -1))


def rows() -> list[Row]:
    """Return the rows of the first table."""
    return [*_binary_rows(), *_other_rows(), *_class_rows()]


def _binary_rows() -> Iterator[Row]:
    bce, theirs, title = jaxbce.binary_cross_entropy_with_logits, optax.sigmoid_binary_cross_entropy, "BCE with logits"
    x = y = v = _array(N)
    mask, matrix = _array(N, dtype=bool), _array(ROWS, COLUMNS)

    def optional(name: str) -> Function:
        return lambda x, y, option: bce(x, y, **{name: option})

    yield Row(title, "mean", 2.0, (x, y), bce, _mean(_bce), _mean(theirs))
    yield _step(title, 3.0, (x, y), bce, _mean(_bce), _mean(theirs))
    yield _step(f"{title}, pos_weight", 3.0, (x, y), functools.partial(bce, pos_weight=3.0), _mean(_pos_weighted))
    yield _step(
        f"{title}, weight",
        4.0,
        (x, y, v),
        optional("weight"),
        _mean(lambda x, y, w: w * _bce(x, y)),
        _mean(lambda x, y, w: w * theirs(x, y)),
    )
    # Read the weights twice: every gradient depends on their sum.
    yield _step(
        f"{title}, weighted_mean",
        5.0,
        (x, y, v),
        lambda x, y, w: bce(x, y, weight=w, reduction="weighted_mean"),
        functools.partial(_weighted_mean, losses=_bce),
        functools.partial(_weighted_mean, losses=theirs),
    )
    # Read the mask twice, a quarter of an array each time: every gradient depends on its count.
    yield _step(
        f"{title}, where",
        3.5,
        (x, y, mask),
        optional("where"),
        _masked_mean,
        lambda x, y, m: jnp.mean(theirs(x, y), where=m),
    )
    yield _step(
        f"{title}, label_smoothing",
        3.0,
        (x, y),
        functools.partial(bce, label_smoothing=0.1),
        functools.partial(_smoothed, losses=_bce),
        functools.partial(_smoothed, losses=theirs),
    )
    half = _array(N, dtype=jnp.bfloat16)
    yield _step(
        f"{title}, bfloat16 logits",
        2.0,
        (half, y),
        bce,
        _mean(lambda x, y: _bce(x.astype(y.dtype), y)),
        _mean(lambda x, y: theirs(x.astype(y.dtype), y)),
    )
    yield _step(
        f"{title}, bool labels",
        2.25,
        (x, mask),
        bce,
        _mean(lambda x, y: _bce(x, y.astype(x.dtype))),
        _mean(lambda x, y: theirs(x, y.astype(x.dtype))),
    )
    yield Row(title, "none", 3.0, (x, y), functools.partial(bce, reduction="none"), _bce, theirs)
    # Read the logits and the vector only, since the Hessian does not depend on the labels.
    products = map(_hessian_vector_product, (bce, _mean(_bce), _mean(theirs)))
    yield Row(title, "Hessian-vector product", 3.0, (x, y, v), *products)
    yield _step(
        f"{title}, a mean per row",
        3.0,
        (matrix, matrix),
        lambda x, y: jnp.sum(bce(x, y, axis=-1)),
        lambda x, y: jnp.sum(jnp.mean(_bce(x, y), -1)),
        lambda x, y: jnp.sum(jnp.mean(theirs(x, y), -1)),
    )
    yield _step(
        f"{title}, under vmap",
        3.0,
        (matrix, matrix),
        lambda x, y: jnp.sum(jax.vmap(bce)(x, y)),
        lambda x, y: jnp.sum(jax.vmap(_mean(_bce))(x, y)),
        lambda x, y: jnp.sum(jax.vmap(_mean(theirs))(x, y)),
    )


def _other_rows() -> Iterator[Row]:
    x = y = _array(N)
    matrix, positives = _array(ROWS, COLUMNS), _array(ROWS, POSITIVES, dtype=jnp.int32)
    probs, focal, sparse = (
        jaxbce.binary_cross_entropy,
        jaxbce.sigmoid_focal_loss,
        jaxbce.sparse_binary_cross_entropy_with_logits,
    )
    theirs = optax.losses.sigmoid_focal_loss
    yield Row("BCE", "mean", 2.0, (x, y), probs, _mean(_probs))
    yield _step("BCE", 3.0, (x, y), probs, _mean(_probs))
    yield _step("focal", 3.0, (x, y), focal, _mean(_focal), _mean(theirs))
    yield _step(
        "focal, alpha",
        3.0,
        (x, y),
        functools.partial(focal, alpha=0.25),
        _mean(_balanced_focal),
        _mean(functools.partial(theirs, alpha=0.25)),
    )
    yield _step("asymmetric", 3.0, (x, y), jaxbce.asymmetric_loss, _mean(_asymmetric))
    # Add a hundredth of an array for the indices, and another for the logits at the indices.
    yield Row("sparse BCE with logits", "mean", 1.02, (matrix, positives), sparse, _sparse)
    # Add the indices again, and the gradients at the indices, which a scatter in place reads and writes.
    yield _step("sparse BCE with logits", 2.05, (matrix, positives), sparse, _sparse)
    # Read two arrays of logits; the labels are constants.
    both = functools.partial(jax.value_and_grad, argnums=(0, 1))
    discriminator, generator = jaxbce.gan_discriminator_loss, jaxbce.gan_generator_loss
    yield Row("GAN, discriminator", "mean", 2.0, (x, y), discriminator, _discriminator)
    yield Row("GAN, discriminator", "value_and_grad", 4.0, (x, y), both(discriminator), both(_discriminator))
    yield Row("GAN, generator", "mean", 1.0, (x,), generator, _mean(lambda x: jax.nn.softplus(-x)))
    yield _step("GAN, generator", 2.0, (x,), generator, _mean(lambda x: jax.nn.softplus(-x)))
    saturating = functools.partial(generator, saturating=True)
    yield _step("GAN, generator, saturating", 2.0, (x,), saturating, _mean(lambda x: -jax.nn.softplus(x)))


def _class_rows() -> Iterator[Row]:
    """Yield the rows of the cross-entropy; a gradient reads the logits twice, since it depends on the sum of a row."""
    loss, title = jaxbce.cross_entropy, "cross-entropy"
    matrix, labels, weight = _array(ROWS, COLUMNS), _array(ROWS, dtype=jnp.int32), _array(COLUMNS)
    mask = _array(ROWS, dtype=bool)
    theirs = _mean(optax.softmax_cross_entropy_with_integer_labels)
    yield Row(title, "mean", 1.0, (matrix, labels), loss, _mean(_classes), theirs)
    yield _step(title, 3.0, (matrix, labels), loss, _mean(_classes), theirs)
    yield _step(
        f"{title}, class_weight",
        3.0,
        (matrix, labels, weight),
        lambda x, labels, w: loss(x, labels, class_weight=w),
        _class_weighted,
    )
    smoothed = functools.partial(loss, label_smoothing=0.1)
    yield _step(f"{title}, label_smoothing", 3.0, (matrix, labels), smoothed, _class_smoothed)
    yield _step(
        f"{title}, where", 3.0, (matrix, labels, mask), lambda x, labels, m: loss(x, labels, where=m), _class_masked
    )
    theirs = _mean(optax.softmax_cross_entropy)
    yield Row(f"{title}, class probabilities", "mean", 2.0, (matrix, matrix), loss, _class_probs, theirs)
    yield _step(f"{title}, class probabilities", 5.0, (matrix, matrix), loss, _class_probs, theirs)


# --- Losses in a loop ---------------------------------------------------------------------------------------------

LABELS, PAIRS = 1_048_576, 16_384


class Loop(NamedTuple):
    """Value and gradients of a loss that computes its logits in a loop, beside the same on all logits at once."""

    title: str
    arrays: tuple[jax.ShapeDtypeStruct, ...]
    ours: Function
    dense: Function


def loops(labels: int = LABELS, pairs: int = PAIRS) -> list[Loop]:
    """Return the linear head and the pairwise loss, in float32 and bfloat16."""
    return [
        _head(256, 128, labels, jnp.float32),
        _head(1024, 768, labels, jnp.bfloat16),
        _pairs(pairs, 768, jnp.float32),
        _pairs(pairs, 768, jnp.bfloat16),
    ]


def _head(batch: int, width: int, labels: int, dtype: Any) -> Loop:
    shapes = (batch, width), (width, labels), (labels,)
    arrays = (*(_array(*shape, dtype=dtype) for shape in shapes), _array(batch, POSITIVES, dtype=jnp.int32))

    def ours(features: Any, kernel: Any, bias: Any, positives: Any) -> Any:
        return jaxbce.linear_binary_cross_entropy(features, kernel, bias=bias, positives=positives)

    def dense(features: Any, kernel: Any, bias: Any, positives: Any) -> Any:
        logits = jnp.matmul(features, kernel, preferred_element_type=jnp.float32) + bias.astype(jnp.float32)
        positive = jnp.zeros(logits.shape, bool).at[jnp.arange(batch)[:, None], positives].set(True)
        return jnp.mean(jax.nn.softplus(logits) - jnp.where(positive, logits, 0))

    title = f"linear BCE, {batch:,} × {width} × {labels:,}, {jnp.dtype(dtype)}"
    return Loop(title, arrays, *(jax.value_and_grad(loss, (0, 1, 2)) for loss in (ours, dense)))


def _pairs(batch: int, width: int, dtype: Any) -> Loop:
    features = _array(batch, width, dtype=dtype)

    def ours(x: Any, y: Any, scale: Any, bias: Any) -> Any:
        return jaxbce.sigmoid_contrastive_loss(x, y, logit_scale=scale, logit_bias=bias)

    def dense(x: Any, y: Any, scale: Any, bias: Any) -> Any:
        """Compute the loss on full logits, as in the appendix of the SigLIP paper."""
        logits = scale * jnp.matmul(x, y.T, preferred_element_type=jnp.float32) + bias
        signs = 2 * jnp.eye(batch, dtype=logits.dtype) - 1
        return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / batch

    title = f"sigmoid contrastive, {batch:,} × {width}, {jnp.dtype(dtype)}"
    arrays = (features, features, _array(), _array())
    return Loop(title, arrays, *(jax.value_and_grad(loss, (0, 1, 2, 3)) for loss in (ours, dense)))


# --- Tables -------------------------------------------------------------------------------------------------------


def _arrays_moved(device: Device, row: Row, function: Function | None) -> str:
    return f"{measure(compile_for(device, function, *row.arrays)).bytes / UNIT:.2f}" if function else "—"


def _row(device: Device, row: Row) -> list[str]:
    ours = measure(compile_for(device, row.ours, *row.arrays))
    return [
        row.title,
        row.quantity,
        f"{row.floor:g}",
        f"{ours.bytes / UNIT:.2f}",
        _arrays_moved(device, row, row.optax),
        _arrays_moved(device, row, row.by_hand),
        f"{ours.kernels:,}",
        f"{ours.temporary / 1e6:,.1f}",
        "—" if ours.seconds is None else f"{ours.seconds * 1e6:,.0f}",
    ]


def _loop(device: Device, loop: Loop) -> list[str]:
    cells = [loop.title]
    for function in (loop.ours, loop.dense):
        moved = measure(compile_for(device, function, *loop.arrays))
        cells += [f"{moved.kernels:,}", f"{moved.bytes / 1e9:.1f}", f"{moved.temporary / 1e6:,.1f}"]
    return cells


def _print_table(header: list[str], lines: Iterator[list[str]]) -> None:
    """Print a Markdown table, each row as soon as its program is compiled."""
    for line in (header, ["---"] * len(header)):
        print("|", " | ".join(line), "|")
    for line in lines:
        print("|", " | ".join(line), "|", flush=True)
    print()


def _tables(device: Device, titles: list[str] | None) -> None:
    def chosen(title: str) -> bool:
        return titles is None or any(title.startswith(start) for start in titles)

    print(f"## {device.name}\n")
    header = ["loss", "quantity", "floor", "moved", "optax", "by hand", "kernels", "temp MB", "XLA's estimate, µs"]
    if elementwise := [row for row in rows() if chosen(row.title)]:
        _print_table(header, (_row(device, row) for row in elementwise))
    header = ["value and gradients", "kernels", "GB", "temp MB", "dense: kernels", "GB", "temp MB"]
    if looped := [loop for loop in loops() if chosen(loop.title)]:
        _print_table(header, (_loop(device, loop) for loop in looped))


def main() -> None:
    """Print the tables of each device."""
    parser = argparse.ArgumentParser(
        description="Count the memory traffic of every loss on accelerators; nothing is run."
    )
    parser.add_argument("--device", nargs="+", default=DEFAULT, choices=DEVICES, help="devices to compile for")
    parser.add_argument("--losses", nargs="+", help="count only the losses whose title starts with one of these")
    options = parser.parse_args()
    devices = [DEVICES[name] for name in options.device]
    if missing := sorted({wheel for device in devices for wheel in missing_wheels(device)}):
        sys.exit(f'{", ".join(missing)}: not installed, but needed to compile. Install: pip install -e ".[devices]"')
    # Keep JAX from initialising an accelerator, since compilation needs only the compiler.
    jax.config.update("jax_platforms", "cpu")
    for device in devices:
        _tables(device, options.losses)


if __name__ == "__main__":
    main()
