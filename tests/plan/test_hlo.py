"""Operations and memory traffic from the text of a program, by hand."""

import pytest

from vidgen.plan import hlo


def program(*lines, more=""):
    """The text of a program whose entry has these lines."""
    return hlo.Program(
        "\n".join(["HloModule jit_step, num_partitions=4", more, "ENTRY %main () -> f32[8] {"])
        + "\n"
        + "\n".join(f"  {line}" for line in lines)
        + "\n}"
    )


A, B = "%a = f32[2,3,5]{2,1,0} parameter(0)", "%b = f32[2,5,7]{2,1,0:T(8,128)} parameter(1)"


def test_a_dot():
    dims = "lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_contracting_dims={1}"
    found = program(A, B, f"ROOT %c = f32[2,3,7]{{2,1,0}} dot(%a, %b), {dims}")
    assert found.operations() == 2 * (2 * 3 * 7) * 5
    assert found.traffic() == 4 * (2 * 3 * 5 + 2 * 5 * 7 + 2 * 3 * 7)
    assert found.partitions == 4


@pytest.mark.parametrize(
    ("length", "taps", "outputs", "window", "pairs"),
    [
        (8, 1, 8, "size=1", 8),
        (8, 3, 6, "size=3", 3 * 6),
        (8, 3, 8, "size=3 pad=1_1", 3 * 8 - 2),  # the first and the last tap miss once
        (8, 3, 4, "size=3 stride=2 pad=0_1", 3 * 4 - 1),
        (4, 3, 8, "size=3 pad=1_2 lhs_dilate=2", 11),  # 1 1 2 1 2 1 2 1: what lies on no hole
        (8, 3, 4, "size=3 rhs_dilate=2", 3 * 4),
    ],
)
def test_a_convolution(length, taps, outputs, window, pairs):
    found = program(
        f"%x = bf16[3,{length},5]{{2,1,0}} parameter(0)",
        f"%w = bf16[{taps},5,7]{{2,1,0}} parameter(1)",
        f"ROOT %y = bf16[3,{outputs},7]{{2,1,0}} convolution(%x, %w), window={{{window}}}, "
        "dim_labels=b0f_0io->b0f",
    )
    assert found.operations() == 2 * 3 * 5 * 7 * pairs
    by_trying = 0
    sizes = dict(part.split("=") for part in window.split())
    before = int(sizes.get("pad", "0_0").split("_")[0])
    hole = int(sizes.get("lhs_dilate", 1))
    for output in range(outputs):
        for tap in range(taps):
            at = output * int(sizes.get("stride", 1)) + tap * int(sizes.get("rhs_dilate", 1))
            place, rest = divmod(at - before, hole)
            by_trying += rest == 0 and 0 <= place < length
    assert by_trying == pairs


def test_a_batched_product_as_libtpu_writes_it():
    """Six examples and two heads are axes of a window whose taps each meet one element."""
    found = program(
        "%q = f32[6,16,2,32]{3,1,2,0} parameter(0)",
        "%k = f32[6,16,2,32]{3,1,2,0} parameter(1)",
        "ROOT %s = f32[6,2,16,16]{2,3,1,0} convolution(%q, %k), "
        "window={size=6x2 stride=5x1 lhs_dilate=6x2}, dim_labels=0b1f_0o1i->01bf",
    )
    assert found.operations() == 2 * 6 * 2 * 16 * 16 * 32


FUSION = """%fused (p: f32[9,4], i: s32[]) -> f32[4] {
  %p = f32[9,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,4]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,4}
  ROOT %r = f32[4]{0} bitcast(%row)
}
"""


def test_of_a_slice_only_the_slice_is_read():
    whole, index = "%w = f32[9,4]{1,0} parameter(0)", "%n = s32[] parameter(1)"
    found = program(
        whole, index, "ROOT %f = f32[4]{0} fusion(%w, %n), kind=kLoop, calls=%fused", more=FUSION
    )
    assert found.traffic() == 16 + 16 + 4  # row, result, index


OUTER = """%outer (p: f32[9,4], i: s32[]) -> f32[4] {
  %p = f32[9,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %row = f32[4]{0} fusion(%p, %i), kind=kLoop, calls=%fused
  ROOT %n = f32[4]{0} negate(%row)
}
"""


def test_also_where_a_fusion_within_the_fusion_takes_the_slice():
    found = program(
        "%w = f32[9,4]{1,0} parameter(0)", "%n = s32[] parameter(1)",
        "ROOT %f = f32[4]{0} fusion(%w, %n), kind=kOutput, calls=%outer",
        more=FUSION + OUTER,
    )  # fmt: skip
    assert found.traffic() == 16 + 16 + 4


UPDATE = """%fused (p: f32[9,4], u: f32[4], i: s32[]) -> (f32[9,4], f32[4]) {
  %p = f32[9,4]{1,0} parameter(0)
  %u = f32[4]{0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,4]{1,0} bitcast(%u)
  %new = f32[9,4]{1,0} dynamic-update-slice(%p, %row, %i, %zero)
  %twice = f32[4]{0} add(%u, %u)
  ROOT %both = (f32[9,4]{1,0}, f32[4]{0}) tuple(%new, %twice)
}
"""


def test_of_what_is_updated_only_the_update_is_written():
    arrays = ("%w = f32[9,4]{1,0} parameter(0)", "%x = f32[4]{0} parameter(1)")
    call = "fusion(%w, %x, %n), kind=kLoop, calls=%fused"
    found = program(
        *arrays, "%n = s32[] parameter(2)", f"ROOT %f = (f32[9,4]{{1,0}}, f32[4]{{0}}) {call}",
        more=UPDATE,
    )  # fmt: skip
    assert found.traffic() == (16 + 4) + (16 + 16)  # the update once, the index; a row and a sum


def test_what_stays_on_the_chip_is_not_moved():
    near = "%near = f32[8]{0:T(256)S(1)} add(%a, %a)"
    first = "%a = f32[8]{0:T(256)} parameter(0)"
    found = program(first, near, "ROOT %c = f32[8]{0:T(256)} add(%near, %a)")
    assert found.traffic() == 2 * 32 + 2 * 32  # a twice; c and a


def test_names_move_nothing_and_starts_are_counted_once():
    found = program(
        "%a = f32[8]{0} parameter(0)",
        "%t = (f32[8]{0}, f32[8]{0}) tuple(%a, %a)",
        "%g = f32[8]{0} get-tuple-element(%t), index=0",
        "%s = (f32[8]{0}, f32[8]{0}, u32[]{:T(128)S(6)}) copy-start(%g)",
        "ROOT %d = f32[8]{0} copy-done(%s)",
    )
    assert found.traffic() == 64


LOOP = """%cond (p: (s32[], f32[4,4])) -> pred[] {
  %limit = s32[] constant(7)
  %p = (s32[], f32[4,4]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}
%body (p: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %p = (s32[], f32[4,4]) parameter(0)
  %x = f32[4,4]{1,0} get-tuple-element(%p), index=1
  %y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    found = program("%w = (s32[], f32[4,4]) while(%t), condition=%cond, body=%body", more=LOOP)
    assert found.operations() == 7 * 2 * 4 * 4 * 4
    moved = 4 + 4 + 1  # the condition compares two counters to a bit
    assert found.traffic() == 7 * (3 * 64 + moved)
    assert found.runs == {"main": 1, "cond": 7, "body": 7}


ROUNDS = """
%cond (p: (u32[], f32[4,4])) -> pred[] {
  %p = (u32[], f32[4,4]) parameter(0)
  %limit = u32[] constant(8)
  %i = u32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (p: (u32[], f32[4,4])) -> (u32[], f32[4,4]) {
  %p = (u32[], f32[4,4]) parameter(0)
  %i = u32[] get-tuple-element(%p), index=0
  %x = f32[4,4] get-tuple-element(%p), index=1
  %two = u32[] constant(2)
  %more = u32[] add(%i, %two)
  %y = f32[4,4] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (u32[], f32[4,4]) tuple(%more, %y)
}
"""


def test_a_loop_whose_counter_goes_by_two():
    """So libtpu prints a product with gathered weights, two rounds in one: 8 rounds are 4 turns."""
    found = program("%w = (u32[], f32[4,4]) while(%t), condition=%cond, body=%body", more=ROUNDS)
    assert found.operations() == 4 * 2 * 4 * 4 * 4
