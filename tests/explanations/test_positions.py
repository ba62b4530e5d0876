"""What positions have, put together by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.compare import assert_close

from relprop import Explanation
from relprop.errors import InputError

COS = torch.tensor([[[1.0, -2.0], [3.0, 0.0]]])
SIN = torch.tensor([[[-3.0, 1.0], [1.0, 1.0]]])
TABLE = torch.tensor([[[0.5, 0.0], [-1.0, 0.0]]])


def explanation(**places: torch.Tensor) -> Explanation:
    return Explanation(torch.zeros(1, 2, 2), None, places=places)


def test_forms_by_hand() -> None:
    """Of the module "a" cos + sin is [[-2, -1], [4, 1]]; of "b" there is the table."""
    found = explanation(**{"a:cos": COS, "a:sin": SIN, "b:wpe": TABLE})
    assert found.positions().tolist() == [[-3 + 0.5, 5 - 1.0]]
    assert found.positions("positive").tolist() == [[0 + 0.5, 5 + 0.0]]
    assert found.positions("absolute").tolist() == [[1 + 2 + 0.5, 3 + 2 + 1.0]]


def test_position_ids_count_and_other_inputs_do_not() -> None:
    inputs: dict[str, Any] = {"input_ids": COS, "position_ids": TABLE}
    found = Explanation(COS, None, by_input=inputs, places={"a:cos": SIN})
    assert_close(found.positions(), (SIN + TABLE).sum(-1))


def test_places_are_saved(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    explanation(**{"a:cos": COS}).save(tmp_path / "e.safetensors")
    loaded = Explanation.load(tmp_path / "e.safetensors")
    assert torch.equal(loaded.positions(), COS.sum(-1))


def test_refusals() -> None:
    with pytest.raises(InputError, match="positions=True"):
        explanation().positions()
    with pytest.raises(InputError, match="'large' is none of signed, positive, absolute"):
        explanation(**{"a:cos": COS}).positions("large")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\[2, 3\].*a:cos, b:wpe"):
        explanation(**{"a:cos": COS, "b:wpe": torch.zeros(1, 3, 2)}).positions()
