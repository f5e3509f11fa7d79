from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.packing import collate, join, pack


@settings(max_examples=100)
@given(lengths=st.lists(st.integers(1, 50), max_size=120), seed=st.integers(0, 5))
def test_every_row_is_in_exactly_one_pack_and_no_pack_is_too_long(lengths: list[int], seed: int) -> None:
    packs = pack(lengths, 50, seed)
    assert sorted(i for rows in packs for i in rows) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in rows) <= 50 for rows in packs)
    assert packs == pack(lengths, 50, seed)


def test_another_seed_is_another_order() -> None:
    assert pack([10] * 40, 50, 0) != pack([10] * 40, 50, 1)


def test_packs_are_well_filled() -> None:
    lengths = [7 + i % 40 for i in range(500)]
    assert len(pack(lengths, 128, 0)) <= -(-sum(lengths) // 128) * 1.03


def row(*ids: int) -> Encoded:
    return Encoded(list(ids), list(ids))


def test_joining_restarts_positions_and_drops_each_rows_first_label() -> None:
    assert join([row(5, 6, 7), row(8, 9)]) == {
        "input_ids": [5, 6, 7, 8, 9],
        "labels": [IGNORE, 6, 7, IGNORE, 9],
        "position_ids": [0, 1, 2, 0, 1],
    }


def test_padding_is_a_row_of_its_own_without_labels() -> None:
    batch = collate([join([row(5, 6, 7)]), join([row(*range(1, 10))])], pad_id=0)
    assert batch["input_ids"].shape == (2, 16)
    assert batch["position_ids"][0].tolist() == [0, 1, 2, *range(13)]
    assert batch["labels"][0, 3:].tolist() == [IGNORE] * 13
    assert int(batch["real_tokens"]) == 12


def test_a_rows_logits_dont_depend_on_its_neighbours(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    rows = [row(*torch.randint(3, 400, (n,), generator=generator).tolist()) for n in (11, 20, 9, 30)]

    def logits(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            found = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        return torch.as_tensor(found)

    alone = [logits(collate([join([r])], 0))[0, : len(r.input_ids)] for r in rows]
    together = logits(collate([join(rows[:2]), join(rows[2:])], 0))
    assert torch.allclose(together[0, :11], alone[0], atol=1e-5)
    assert torch.allclose(together[0, 11:31], alone[1], atol=1e-5)
    assert torch.allclose(together[1, 9:39], alone[3], atol=1e-5)
    # and the test can fail: without position ids the rows do see each other
    with torch.no_grad():
        mixed = model(input_ids=collate([join(rows[:2])], 0)["input_ids"], use_cache=False).logits
    assert not torch.allclose(mixed[0, 11:31], alone[1], atol=1e-2)
