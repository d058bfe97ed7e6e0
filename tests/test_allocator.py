"""What glibc's allocator keeps and where it looks; each test in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc does")

_PAGES = """
import ctypes, resource, sys
from vidgen import allocator

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def use(size=int(sys.argv[2])):
    address = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(address, 1, size)
    libc.free(address)

if sys.argv[1] == "keep":
    allocator.keep_freed_memory()
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def output_of(program, *arguments, **variables):
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=plain | variables, capture_output=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("words", "mebibytes", "variables", "least", "most"),
    [
        ("keep", 64, {}, 0, 1000),
        ("keep", 2100, {}, 0, 1000),
        ("as it is", 64, {}, 100_000, 10**9),
        ("keep", 64, {"MALLOC_ARENA_MAX": "4"}, 100_000, 10**9),  # the user's settings stay
    ],
)
def test_freed_memory_is_used_again(words, mebibytes, variables, least, most):
    faults = int(output_of(_PAGES, words, str(mebibytes * 2**20), **variables))
    assert least <= faults <= most


_HOLES = """
import ctypes, random, resource, sys
from vidgen import allocator

allocator.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.mallinfo2.restype = allocator._MallInfo

def leave_holes():
    random.seed(0)
    held = [libc.malloc(random.randint(6000, 12000)) for _ in range(30_000)]
    large = libc.malloc(2**21)
    end = libc.malloc(2**20)  # so that the heap does not end with the large hole
    for address in [*held[::2], large]:
        ctypes.memset(address, 1, 6000)
        libc.free(address)
    return held[1::2], end

def free():
    info = libc.mallinfo2()
    return (info.fordblks - info.keepcost) / 2**20

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

kept, end = leave_holes()
print(free(), resident())
allocator.set_holes_aside()
print(free(), resident())
if sys.argv[1] == "again":
    for address in kept:
        libc.free(address)
    allocator.set_holes_aside()  # of what were holes and blocks by turns, one large hole is left
    print(free(), resident())
print(libc.malloc(2**20) < end)  # in the large hole
"""


def test_small_holes_are_set_aside_and_large_ones_are_not():
    before, after, fits = (line.split() for line in output_of(_HOLES, "once").decode().splitlines())
    assert float(before[0]) > 100  # MiB that are free: 15,000 holes of 9 kB, and one of 2 MiB
    assert 2 <= float(after[0]) < 25 and fits == ["True"]
    assert float(after[1]) < float(before[1]) - 20  # whole pages inside holes are not resident


def test_the_users_settings_stay():
    output = output_of(_HOLES, "once", MALLOC_ARENA_MAX="4").decode()
    before, after, _ = (line.split() for line in output.splitlines())
    assert float(after[0]) == pytest.approx(float(before[0]), abs=1)


def test_what_was_set_aside_is_freed_the_next_time():
    _, once, again, _ = (line.split() for line in output_of(_HOLES, "again").decode().splitlines())
    assert float(again[0]) > 200  # all of it is free, in pieces too large to be set aside
    assert float(again[1]) < float(once[1])
