"""What the losses move through the memory of accelerators, in the programs that XLA compiles for them.

Needs the extra `devices` and no accelerator: nothing is run. The counter is tried first, on functions whose traffic is
known and against the bytes that XLA counts itself on TPU.
"""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests import extras
from tests.settings import DEFAULTS, configured

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "devices.py"


def load():
    specification = importlib.util.spec_from_file_location("benchmarks_devices", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


devices = load()

compiled_for = pytest.mark.parametrize("name", devices.DEFAULT)
SLACK = 1.02


@pytest.fixture(autouse=True)
def defaults():
    with configured(**DEFAULTS, jax_default_matmul_precision=None):
        yield


def compiler(name):
    """The device of this name, if its compiler is installed."""
    if os.environ.get("JAX_PLATFORMS") != "cpu":
        pytest.skip("needs JAX_PLATFORMS=cpu: elsewhere JAX starts the accelerator's runtime, which is not needed here")
    device = devices.DEVICES[name]
    if wheels := devices.missing_wheels(device):
        extras.missing(", ".join(wheels), extra="devices")
    return device


def moved(name, function, *arguments):
    return devices.measure(devices.compile_for(compiler(name), function, *arguments))


def title(loss):
    return ", ".join([loss.title, *([loss.quantity] if hasattr(loss, "quantity") else [])]).replace("×", "x")


def heaviest(traffic, unit):
    """The kernels that count: those that move a hundredth of the whole."""
    moved = [(k.times * k.bytes, k.name) for k in traffic.heaviest]
    return ", ".join(f"{size / unit:,.2f} {name}" for size, name in moved if size > traffic.bytes / 100)


# --- The losses ---------------------------------------------------------------------------------------------------


@compiled_for
@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("row", devices.rows(), ids=title)
def test_moves_no_more_than_the_floor(row, name):
    traffic = moved(name, row.ours, *row.arrays)
    arrays = traffic.bytes / devices.UNIT
    if arrays > row.floor * SLACK:
        kernels = f"{traffic.kernels} kernels, the heaviest in arrays: {heaviest(traffic, devices.UNIT)}"
        message = f"{title(row)}, on {name}: moves {arrays:.2f} arrays, and {row.floor:g} would do; {kernels}"
        pytest.fail(message, pytrace=False)


@compiled_for
@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("loss", [*devices.rows(), *devices.loops()], ids=title)
def test_no_optimization_barrier(loss, name):
    text = devices.lower_for(compiler(name), loss.ours, *loss.arrays).as_text()
    assert "stablehlo." in text
    if barriers := text.count("stablehlo.optimization_barrier"):
        pytest.fail(f"{title(loss)}, on {name}: {barriers} optimization barriers", pytrace=False)


@pytest.mark.slow
@pytest.mark.cpu
def test_prints_a_table_for_each_device():
    for name in devices.DEFAULT:
        compiler(name)
    done = subprocess.run([sys.executable, SCRIPT, "--losses", "GAN, generator"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line[3:] for line in done.stdout.splitlines() if line.startswith("## ")] == [*devices.DEFAULT]
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| GAN")]
    assert [row[:3] for row in table[:2]] == [
        ["GAN, generator", "mean", "1"],
        ["GAN, generator", "value_and_grad", "2"],
    ]
    assert len(table) == 3 * len(devices.DEFAULT)
    assert all(float(row[3]) >= float(row[2]) for row in table)


# --- The counter --------------------------------------------------------------------------------------------------

N = devices.N


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def scanned(x):
    return jax.lax.scan(lambda total, row: (total + jnp.sum(jnp.sin(row)), None), 0.0, x)[0]


def nested(x):
    def rows(i, total):
        return jax.lax.fori_loop(0, 10, lambda j, total: total + jnp.sum(jnp.sin(x[10 * i + j])), total)

    return jax.lax.fori_loop(0, 10, rows, 0.0)


x, half, mask, few = array(N), array(N, dtype=jnp.bfloat16), array(N, dtype=bool), array(1000, dtype=jnp.int32)
matrix = array(100_000, 1_000)
KNOWN = {
    "sum of two": (lambda x, y: x + y, (x, x), 3),
    "one array twice": (lambda x: x * x, (x,), 2),
    "two results": (lambda x: (x + 1, x * 2), (x,), 3),
    "constant": (lambda: jnp.zeros(N) + 1, (), 1),
    "total": (jnp.sum, (x,), 1),
    "total by row": (lambda x: jnp.sum(x, -1), (matrix,), 1),
    "total by column": (lambda x: jnp.sum(x, 0), (matrix,), 1),
    "mean, then centred": (lambda x: x - jnp.mean(x), (x,), 3),
    "bfloat16": (lambda x, y: x + y, (half, half), 1.5),
    "bfloat16 and float32": (lambda x, y: x + y, (half, x), 2.5),
    "bool": (lambda x, m: jnp.where(m, x, 0), (x, mask), 2.25),
    "slice": (lambda x: 2 * x[: N // 4], (x,), 0.5),
    "gather": (lambda x, i: x[i], (x, few), 0),
    "gather by row": (lambda x, i: jnp.take_along_axis(x, i, -1), (matrix, array(100_000, 10, dtype=jnp.int32)), 0.03),
    "gather of rows": (lambda x, i: x[i], (array(100_000, 1_024), array(10_000, dtype=jnp.int32)), 0.2048),
    "slice written over": (lambda x: x.at[5:1005].set(0), (x,), 2),
    "scatter": (lambda x, i: x.at[i].add(1), (x, few), 2),
    "loop": (scanned, (array(100, N // 100),), 1),
    "loop in a loop": (nested, (array(100, N // 100),), 1),
    "the heavier branch": (lambda p, x: jax.lax.cond(p, lambda x: x + 1, jnp.zeros_like, x), (array(dtype=bool), x), 2),
    "product": (jnp.matmul, (array(10_000, 10_000), array(10_000, 10_000)), 3),
}


@compiled_for
@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("known", KNOWN)
def test_counts_known_traffic(known, name):
    function, arguments, arrays = KNOWN[known]
    assert moved(name, function, *arguments).bytes / devices.UNIT == pytest.approx(arrays, rel=0.01, abs=0.015)


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("row", devices.rows()[:5], ids=title)
@pytest.mark.parametrize("function", ["ours", "by_hand"])
def test_counts_as_xla_does(row, function):
    """On TPU, whose compiler says how many bytes are accessed, in memory off the chip and on it."""
    compiled = devices.compile_for(compiler("TPU v5e"), getattr(row, function), *row.arrays)
    assert devices.measure(compiled).bytes == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=1e-3)


@compiled_for
@pytest.mark.slow
@pytest.mark.cpu
def test_kernels_of_a_loop_count_once_for_each_trip(name):
    few, many = (moved(name, scanned, array(trips, 1_000_000)) for trips in (10, 1000))
    a_trip = (many.kernels - few.kernels) / 990
    assert a_trip >= 1
    assert a_trip.is_integer()
    assert many.seconds is few.seconds is None


@compiled_for
@pytest.mark.slow
@pytest.mark.cpu
def test_a_loop_of_unknown_length_is_refused(name):
    def halve(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) > 1, lambda x: x / 2, x)

    with pytest.raises(ValueError, match="number of trips"):
        moved(name, halve, x)


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("name", devices.DEVICES)
def test_every_device_is_compiled_for(name):
    assert moved(name, jnp.add, x, x).bytes == 3 * devices.UNIT


@pytest.mark.slow
@pytest.mark.cpu
def test_temporary_memory_and_time():
    traffic = moved("TPU v5e", lambda x: jnp.sort(jnp.sin(x)), x)
    assert traffic.temporary >= devices.UNIT
    assert moved("TPU v5e", jnp.add, x, x).seconds == pytest.approx(3 * devices.UNIT / 819e9, rel=0.2)
    assert moved("H100", jnp.add, x, x).seconds is None


def counted(text):
    return {k.name: (k.times, k.bytes) for k in devices.count(textwrap.dedent(text))}


def test_memory_on_the_chip_is_free():
    assert counted("""
        ENTRY %main (x: f32[1000]) -> f32[1000] {
          %x = f32[1000]{0:T(1024)} parameter(0)
          %copy-start = (f32[1000]{0:T(1024)S(1)}, f32[1000]{0:T(1024)}, u32[]{:S(2)}) copy-start(%x)
          %copy-done = f32[1000]{0:T(1024)S(1)} copy-done(%copy-start)
          %sine = f32[1000]{0:T(1024)S(1)} sine(%copy-done)
          ROOT %exp = f32[1000]{0:T(1024)S(0)} exponential(%sine)
        }
        """) == {"copy-start": (1, 4000), "sine": (1, 0), "exp": (1, 4000)}


FUSED = """
    %fused (p: bf16[100,64], i: s32[], u: bf16[1,64]) -> bf16[100,64] {{
      %p = bf16[100,64]{{1,0}} parameter(0)
      %i = s32[] parameter(1)
      %u = bf16[1,64]{{1,0}} parameter(2)
      %zero = s32[] constant(0)
      %before = bf16[1,64]{{1,0}} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={{1,64}}
      %after = bf16[1,64]{{1,0}} add(%before, %u)
      %written = bf16[100,64]{{1,0}} dynamic-update-slice(%p, %after, %i, %zero)
      ROOT %root = bf16[100,64]{{1,0}} {root}(%written)
    }}

    ENTRY %main (x: bf16[100,64], i: s32[], u: bf16[1,64]) -> bf16[100,64] {{
      %x = bf16[100,64]{{1,0}} parameter(0)
      %i = s32[] parameter(1)
      %u = bf16[1,64]{{1,0}} parameter(2)
      ROOT %fusion = bf16[100,64]{{1,0}} fusion(%x, %i, %u), kind=kLoop, calls=%fused
    }}
    """


def test_a_slice_written_in_place_costs_the_slice():
    """It is read, added to what is read beside it, and written; the index has four bytes."""
    assert counted(FUSED.format(root="bitcast")) == {"fusion": (1, 3 * 128 + 4)}


def test_a_slice_written_into_a_new_array_costs_the_array():
    assert counted(FUSED.format(root="negate")) == {"fusion": (1, 2 * 12_800 + 128 + 4)}


def test_trips_from_the_condition():
    """XLA hands the bound to the loop in its tuple, and notes no number of trips."""
    assert counted("""
        %body (state: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {
          %state = (s32[], f32[8]{0}, s32[]) parameter(0)
          %i = s32[] get-tuple-element(%state), index=0
          %x = f32[8]{0} get-tuple-element(%state), index=1
          %bound = s32[] get-tuple-element(%state), index=2
          %sine = f32[8]{0} sine(%x)
          ROOT %next = (s32[], f32[8]{0}, s32[]) tuple(%i, %sine, %bound)
        }

        %condition (state: (s32[], f32[8], s32[])) -> pred[] {
          %state = (s32[], f32[8]{0}, s32[]) parameter(0)
          %i = s32[] get-tuple-element(%state), index=0
          %bound = s32[] get-tuple-element(%state), index=2
          ROOT %less = pred[] compare(%i, %bound), direction=LT
        }

        ENTRY %main (x: f32[8]) -> f32[8] {
          %x = f32[8]{0} parameter(0)
          %zero = s32[] constant(0)
          %seven = s32[] constant(7)
          %start = (s32[], f32[8]{0}, s32[]) tuple(%zero, %x, %seven)
          %loop = (s32[], f32[8]{0}, s32[]) while(%start), condition=%condition, body=%body
          ROOT %end = f32[8]{0} get-tuple-element(%loop), index=1
        }
        """) == {"sine": (7, 64)}
