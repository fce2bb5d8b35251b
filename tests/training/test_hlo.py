"""What a compiled program sends and moves: a text worked by hand, and programs of this machine's compiler."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rembert_jax.training.hlo import Program

TEXT = """HloModule jit_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%condition (state: (s32[], f32[10,64])) -> pred[] {
  %limit = s32[]{:T(128)} constant(10)
  %state = (s32[], f32[10,64]) parameter(0)
  %step = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%step, %limit), direction=LT
}

%gather_begins (layer: f32[64]) -> (f32[64], f32[256]) {
  %layer = f32[64]{0} parameter(0)
  %all-gather.1 = f32[256]{0} all-gather(%layer), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %custom-call.1 = (f32[64], f32[256]) custom-call(%layer, %all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%gather_ends (layer: f32[64]) -> f32[256] {
  %layer.1 = f32[64]{0} parameter(0)
  ROOT %all-gather.2 = f32[256]{0} all-gather(%layer.1), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
}

%take_layer (stack: f32[10,64], at: s32[]) -> f32[64] {
  %stack = f32[10,64]{1,0} parameter(0)
  %at = s32[] parameter(1)
  ROOT %dynamic-slice.1 = f32[64]{0} dynamic-slice(%stack, %at), dynamic_slice_sizes={1,64}
}

%body (state: (s32[], f32[10,64])) -> (s32[], f32[10,64]) {
  %state.1 = (s32[], f32[10,64]) parameter(0)
  %step.1 = s32[] get-tuple-element(%state.1), index=0
  %stack.1 = f32[10,64]{1,0} get-tuple-element(%state.1), index=1
  %fusion.1 = f32[64]{0} fusion(%stack.1, %step.1), kind=kLoop, calls=%take_layer
  %fusion.2 = (f32[64], f32[256]{0:S(1)}) fusion(%fusion.1), kind=kCustom, calls=%gather_begins
  %fusion.3 = f32[256]{0:T(256)S(1)} fusion(%fusion.1), kind=kCustom, calls=%gather_ends
  ROOT %tuple.1 = (s32[], f32[10,64]) tuple(%step.1, %stack.1)
}

ENTRY %main (x: f32[10,64]) -> f32[] {
  %x = f32[10,64]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %tuple.2 = (s32[], f32[10,64]) tuple(%zero, %x)
  %while.1 = (s32[], f32[10,64]) while(%tuple.2), condition=%condition, body=%body
  %y = f32[10,64]{1,0} get-tuple-element(%while.1), index=1
  %all-reduce.1 = bf16[10,64]{1,0} all-reduce(%y), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%sum
  %copy-start.1 = (f32[10,64]{1,0:S(1)}, f32[10,64]{1,0}, u32[]) copy-start(%y)
  ROOT %reduce.1 = f32[] reduce(%all-reduce.1, %zero), dimensions={0,1}, to_apply=%sum
}
"""


def test_a_text_worked_by_hand():
    program = Program(TEXT)
    found = program.collectives()
    # Ten times three quarters of 256 floats, begun and ended; once, around two devices, half of 640 there and back.
    assert (found["all-gather"].calls, found["all-gather"].sent_bytes) == (10, 10 * 256 * 4 * 3 / 4)
    assert (found["all-reduce"].calls, found["all-reduce"].sent_bytes) == (1, 2 * 640 * 2 / 2)
    # In the loop a layer is read and written, counter beside it; then read twice; in faster memory nothing counts.
    loop = (64 * 4 + 64 * 4 + 4) + (64 * 4 + 64 * 4) + 64 * 4
    # The sum over devices, the copy of a part that is read, the sum over its values.
    rest = (640 * 4 + 640 * 2) + (640 * 4 + 4) + (640 * 2 + 4 + 4)
    assert program.memory_bytes() == 10 * loop + rest
    loop_again = "while(%while.1), condition=%condition, body=%body\n  %y = f32[10,64]{1,0} get-tuple-element(%while.2)"
    again = TEXT.replace(
        "%y = f32[10,64]{1,0} get-tuple-element(%while.1)", f"%while.2 = (s32[], f32[10,64]) {loop_again}"
    )
    assert Program(again).collectives()["all-gather"].calls == 20 and Program(again).memory_bytes() == 20 * loop + rest
    before, main = TEXT.split("ENTRY ")
    elsewhere = Program(before.replace("%sum (", f"ENTRY {main}\n%sum ("))
    assert (elsewhere.collectives(), elsewhere.memory_bytes()) == (found, 10 * loop + rest), "wherever the entry stands"


OTHER_FORMS = """
%put (buffer: f32[100,64], row: f32[1,64], at: s32[]) -> f32[100,64] {
  %buffer = f32[100,64]{1,0} parameter(0)
  %row = f32[1,64]{1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %dynamic-update-slice.1 = f32[100,64]{1,0} dynamic-update-slice(%buffer, %row, %at)
}

%sends (given: f32[8]) -> f32[8] {
  %given = f32[8]{0} parameter(0)
  ROOT %collective-permute.1 = f32[8]{0} collective-permute(%given), channel_id=9, source_target_pairs={{0,1},{1,0}}
}

%keeps (given: f32[8]) -> f32[8] {
  ROOT %given.1 = f32[8]{0} parameter(0)
}

ENTRY %main (x: f32[64], y: f32[32], buffer: f32[100,64], row: f32[1,64], at: s32[], which: pred[], z: f32[8]) -> f32[] {
  %x = f32[64]{0} parameter(0)
  %y = f32[32]{0} parameter(1)
  %buffer.1 = f32[100,64]{1,0} parameter(2)
  %row.1 = f32[1,64]{1,0} parameter(3)
  %at.1 = s32[] parameter(4)
  %which = pred[] parameter(5)
  %z = f32[8]{0} parameter(6)
  %all-gather-start.1 = (f32[64]{0}, f32[256]{0:S(1)}) all-gather-start(%x), channel_id=3, replica_groups=[2,4]<=[8]
  %all-gather-done.1 = f32[256]{0} all-gather-done(%all-gather-start.1)
  %all-gather.1 = (f32[256]{0}, f32[128]{0}) all-gather(%x, %y), channel_id=4, replica_groups=[2,4]<=[8]
  %fusion.1 = f32[100,64]{1,0} fusion(%buffer.1, %row.1, %at.1), kind=kLoop, calls=%put
  ROOT %conditional.1 = f32[8]{0} conditional(%which, %z, %z), branch_computations={%sends, %keeps}
}
"""


def test_what_is_begun_and_ended_of_several_arrays_in_a_branch_and_in_place_worked_by_hand():
    program = Program(OTHER_FORMS)
    found = program.collectives()
    # Three quarters of 256 floats, wherever they are put, and of 256 and 128.
    assert (found["all-gather"].calls, found["all-gather"].sent_bytes) == (2, 3 / 4 * 4 * (256 + 256 + 128))
    assert (found["collective-permute"].calls, found["collective-permute"].sent_bytes) == (1, 8 * 4)
    # Begun and in main memory: what is sent. Of the buffer the row that is written, read before with its number.
    begun, whole, put, sent = 4 * 64, 4 * (64 + 32 + 256 + 128), 2 * 4 * 64 + 4, 2 * 4 * 8
    assert program.memory_bytes() == begun + whole + put + sent


def test_a_kernel_reads_the_parts_that_it_takes_and_no_more_than_all():
    text = """
%parts (table: f32[100,64], at: s32[]) -> f32[3,64] {
  %table = f32[100,64]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %slice.1 = f32[2,64]{1,0:S(1)} slice(%table), slice={[0:2], [0:64]}
  %dynamic-slice.1 = f32[1,64]{1,0} dynamic-slice(%table, %at), dynamic_slice_sizes={1,64}
  ROOT %concatenate.1 = f32[3,64]{1,0} concatenate(%slice.1, %dynamic-slice.1), dimensions={0}
}

ENTRY %main (table: f32[100,64], at: s32[]) -> f32[3,64] {
  %table.1 = f32[100,64]{1,0} parameter(0)
  %at.1 = s32[] parameter(1)
  ROOT %fusion.1 = f32[3,64]{1,0} fusion(%table.1, %at.1), kind=kLoop, calls=%parts
}
"""
    # Two rows and one of the table, wherever the kernel puts them, the number of one, and three written.
    assert Program(text).memory_bytes() == 4 * (3 * 64 + 1 + 3 * 64)
    whole = text.replace("f32[2,64]", "f32[100,64]").replace("0:2", "0:100").replace("f32[3,64]", "f32[101,64]")
    assert Program(whole).memory_bytes() == 4 * (100 * 64 + 1 + 101 * 64)


def test_a_kernel_within_a_kernel_reads_and_writes_its_part():
    text = """
%inner (row: f32[1,64], at: s32[], table: f32[100,64]) -> f32[100,64] {
  %row = f32[1,64]{1,0:S(1)} parameter(0)
  %at = s32[] parameter(1)
  %table = f32[100,64]{1,0} parameter(2)
  ROOT %dynamic-update-slice.1 = f32[100,64]{1,0} dynamic-update-slice(%table, %row, %at)
}

%outer (table: f32[100,64], rows: f32[8,64], at: s32[]) -> f32[100,64] {
  %table.1 = f32[100,64]{1,0} parameter(0)
  %rows = f32[8,64]{1,0} parameter(1)
  %at.1 = s32[] parameter(2)
  %dynamic-slice.1 = f32[1,64]{1,0} dynamic-slice(%rows, %at.1), dynamic_slice_sizes={1,64}
  ROOT %fusion.1 = f32[100,64]{1,0} fusion(%dynamic-slice.1, %at.1, %table.1), kind=kLoop, calls=%inner
}

ENTRY %main (table: f32[100,64], rows: f32[8,64], at: s32[]) -> f32[100,64] {
  %table.2 = f32[100,64]{1,0} parameter(0)
  %rows.1 = f32[8,64]{1,0} parameter(1)
  %at.2 = s32[] parameter(2)
  ROOT %fusion.2 = f32[100,64]{1,0} fusion(%table.2, %rows.1, %at.2), kind=kLoop, calls=%outer
}
"""
    # One row of eight and the number of one; one row of the table is written, and nothing of it read.
    assert Program(text).memory_bytes() == 4 * (64 + 1 + 64)


def test_what_is_called_twice_and_in_a_branch_runs_three_times():
    text = """
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%shared (given: f32[64]) -> f32[64] {
  %given = f32[64]{0} parameter(0)
  ROOT %all-reduce.1 = f32[64]{0} all-reduce(%given), channel_id=1, replica_groups=[1,2]<=[2], to_apply=%sum
}

%kept (given: f32[64]) -> f32[64] {
  ROOT %given.1 = f32[64]{0} parameter(0)
}

ENTRY %main (x: f32[64], which: pred[]) -> f32[64] {
  %x = f32[64]{0} parameter(0)
  %which = pred[] parameter(1)
  %call.1 = f32[64]{0} call(%x), to_apply=%shared
  %call.2 = f32[64]{0} call(%call.1), to_apply=%shared
  ROOT %conditional.1 = f32[64]{0} conditional(%which, %call.2, %x), true_computation=%shared, false_computation=%kept
}
"""
    program = Program(text)
    found = program.collectives()["all-reduce"]
    assert (found.calls, found.sent_bytes) == (3, 3 * 256) and program.memory_bytes() == 3 * 2 * 256


def test_truths_take_a_byte_and_numbers_their_bits():
    text = """
ENTRY %main (which: pred[100], x: bf16[100]) -> f8e4m3fn[100] {
  %which.1 = pred[100]{0} parameter(0)
  %x.1 = bf16[100]{0} parameter(1)
  ROOT %fusion.1 = f8e4m3fn[100]{0} fusion(%which.1, %x.1), kind=kLoop, calls=%nowhere
}
"""
    assert Program(text).memory_bytes() == 100 + 200 + 100


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("[64,8]<=[512]", 8),
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("mesh['axis_0'=2,'axis_1'=4,'axis_2'=8], device_ids=([64]) {'axis_0','axis_2'}", 16),
    ],
)
def test_groups_of_every_form(groups, devices):
    text = f"""
ENTRY %main (x: f32[100]) -> f32[100] {{
  %x = f32[100]{{0}} parameter(0)
  ROOT %all-reduce.1 = f32[100]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%sum
}}
"""
    assert Program(text).collectives()["all-reduce"].sent_bytes == pytest.approx(2 * 400 * (devices - 1) / devices)


@pytest.mark.parametrize(
    ("kind", "shape", "sent"),
    [
        # Of eight devices each sends seven eighths of what it has, to all-reduce twice; of a scattered sum all but its own
        # part, which is what comes out.
        ("all-to-all", "f32[100]", 400 * 7 / 8),
        ("all-reduce", "f32[100]", 2 * 400 * 7 / 8),
        ("reduce-scatter", "f32[100]", 400 * 7),
        ("all-gather", "f32[100]", 400 * 7 / 8),
        ("collective-permute", "f32[100]", 400),
        ("collective-permute", "(f32[100], f32[50])", 600),
        ("collective-permute-start", "(f32[100], f32[100], u32[], u32[])", 400),
    ],
)
def test_what_a_device_sends_by_kind(kind, shape, sent):
    text = f"""
ENTRY %main (x: f32[100]) -> {shape} {{
  %x = f32[100]{{0}} parameter(0)
  ROOT %it = {shape}{{0}} {kind}(%x), channel_id=1, replica_groups=[64,8]<=[512], to_apply=%sum
}}
"""
    assert Program(text).collectives()[kind.removesuffix("-start")].sent_bytes == pytest.approx(sent)


def test_collectives_without_a_channel_are_told_apart_by_their_names():
    text = """
ENTRY %main (x: f32[100]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  %once = f32[100]{0} all-reduce(%x), replica_groups=[1,2]<=[2], to_apply=%sum
  ROOT %again = f32[100]{0} all-reduce(%once), replica_groups=[1,2]<=[2], to_apply=%sum
}
"""
    assert Program(text).collectives()["all-reduce"].calls == 2


def test_the_collectives_of_a_scan_on_this_machine():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))

    def total(x):
        def body(carry, _):
            return carry + jax.lax.psum(x * carry.sum(), "a"), None

        return jax.lax.scan(body, x, length=6)[0]

    split = jax.shard_map(total, mesh=mesh, in_specs=PartitionSpec("a"), out_specs=PartitionSpec("a"), check_vma=False)
    x = jax.ShapeDtypeStruct((8 * 32,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("a")))
    found = Program(jax.jit(split).lower(x).compile().as_text()).collectives()
    assert (found["all-reduce"].calls, found["all-reduce"].sent_bytes) == (6, 6 * 2 * 32 * 4 * 7 / 8)


def test_a_loop_without_a_known_end_is_not_guessed():
    with pytest.raises(ValueError, match="no single constant to count to"):
        Program(TEXT.replace("constant(10)", "parameter(1)"))
