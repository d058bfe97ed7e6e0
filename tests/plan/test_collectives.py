"""Bytes between devices, from programs whose collectives are known, and from text of a TPU's."""

import pytest

from vidgen.plan import collectives


def test_programs_with_known_collectives(on_devices):
    found = on_devices(4, "collectives_on_devices.py")
    matrix = 4 * 8 * 8  # bytes of one layer's weights, cut over 4 devices
    assert found["all-gather"] == {"all-gather": matrix * 3 / 4}
    assert found["five in a loop"] == {"all-gather": 5 * matrix * 3 / 4}
    assert found["all-reduce"] == {"all-reduce": 2 * matrix * 3 / 4}
    assert found["none"] == {}


def program(*lines):
    """The text of a program for four devices."""
    return "\n".join(
        ["HloModule jit_step, num_partitions=4", "ENTRY %main (a: f32[8]) -> f32[8] {", *lines, "}"]
    )


@pytest.mark.parametrize(
    "line, received",
    [
        ("all-reduce(%a), replica_groups={}, to_apply=%sum", {"all-reduce": 48}),
        ("all-reduce(%a), replica_groups={{0,1},{2,3}}, to_apply=%sum", {"all-reduce": 32}),
        ("all-to-all(%a), replica_groups=[2,2]<=[4]", {"all-to-all": 16}),
        ("all-to-all(%a), replica_groups=mesh['a'=2,'b'=2] {'b'}", {"all-to-all": 16}),
        ("all-to-all(%a), replica_groups=mesh['a'=4] {'a':(1)2}", {"all-to-all": 16}),
        ("all-to-all(%a), replica_groups=mesh['a'=2,'b'=2] {'a','b'}", {"all-to-all": 24}),
        ("reduce-scatter(%a), replica_groups=[1,4]<=[4], to_apply=%sum", {"reduce-scatter": 96}),
        ("collective-permute(%a), source_target_pairs={{0,1}}", {"collective-permute": 32}),
        ("add(%a, %a)", {}),
    ],
)
def test_each_kind(line, received):
    assert collectives.received(program(f"  %x = f32[8]{{0}} {line}")) == received


def test_asynchronous_collectives_name_operands_and_results():
    text = program(
        "  %g = (f32[2]{0}, bf16[8,2]{1,0:T(8,128)}, f32[8]{0}, bf16[32,2]{1,0}) "
        "all-gather-start(%a, %b), replica_groups=[1,4]<=[4]",
        "  %p = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%a)",
    )
    expected = {"all-gather": (32 + 128) * 3 / 4, "collective-permute": 32}
    assert collectives.received(text) == expected


LOOP = """HloModule jit_step, num_partitions=4
%cond.1 (p: (s32[], f32[8])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7)
  %p = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, LIMIT), direction=LT, metadata={op_name="while/cond/lt"}
}
%body.2 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} all-reduce(%a), replica_groups={}, to_apply=%sum
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]{0}) while(%t), condition=%cond.1, body=%body.2KNOWN
}"""


@pytest.mark.parametrize(
    ("limit", "known", "times"),
    [
        ("%seven", "", 7),  # as libtpu prints a scan
        ("%other", "", 1),
        ("%seven", ', backend_config={"known_trip_count":{"n":"3"}}', 3),
    ],
)
def test_a_loop_runs_as_often_as_its_condition_says(limit, known, times):
    text = LOOP.replace("LIMIT", limit).replace("KNOWN", known)
    assert collectives.received(text) == {"all-reduce": 48 * times}


SCATTERED = """HloModule jit_step, num_partitions=4
%all-reduce-scatter.1 (x: f32[32]) -> f32[8] {
  %x = f32[32]{0} parameter(0)
  %sum = f32[32]{0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %own = f32[8]{0} dynamic-slice(%sum, %index), dynamic_slice_sizes={8}
}
ENTRY %main (a: f32[32]) -> f32[8] {
  ROOT %f = f32[8]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}"""


def test_a_sum_of_which_each_device_keeps_its_part():
    assert collectives.received(SCATTERED) == {"reduce-scatter": 32 * 4 * 3 / 4}


@pytest.mark.parametrize(("kind", "share"), [("ALL_REDUCE", 2 * 3 / 4), ("ONE_TO_ONE", 1)])
def test_between_slices(kind, share):
    line = (
        "  %r = (f32[4,8]{1,0:T(8,128)}, u32[], token[]) recv(%t), channel_id=9, "
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        f'_xla_megascale_transfer_type="{kind}"}}'
    )
    assert collectives.received(program(line), slices=4) == {"between slices": 128 * share}
