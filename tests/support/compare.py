"""Compare two tensors, in relative L2 or entry by entry, and say where they differ most."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / max(‖actual‖, ‖expected‖); 0 when both vanish."""
    a, e = actual.detach().double().cpu(), expected.detach().double().cpu()
    difference, scale = (a - e).norm().item(), max(a.norm().item(), e.norm().item())
    return 0.0 if difference == 0.0 else difference / scale


def assert_close(
    actual: Tensor, expected: Tensor, rtol: float = 1e-9, atol: float = 0.0, what: str = "", worst: int = 5
) -> None:
    """Fail unless ‖actual − expected‖ <= max(atol, rtol · max(‖actual‖, ‖expected‖)), and show the worst
    entries.
    """
    __tracebackhide__ = True
    assert actual.shape == expected.shape, f"{what} shapes differ: {tuple(actual.shape)} is not {tuple(expected.shape)}"
    a, e = actual.detach().double().cpu(), expected.detach().double().cpu()
    difference, scale = (a - e).norm().item(), max(a.norm().item(), e.norm().item())
    if difference <= max(atol, rtol * scale) and difference < float("inf"):  # NaN fails either test
        return
    gap = (a - e).abs().nan_to_num(nan=float("inf")).flatten()
    rows = []
    for k in gap.argsort(descending=True)[:worst].tolist():
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(k), a.shape)) if a.dim() else ()
        rows.append(f"  {index}: {a.flatten()[k].item():+.12e} should be {e.flatten()[k].item():+.12e}")
    raise AssertionError(
        f"{what} relative L2 difference {difference / scale if scale else float('nan'):.3e} "
        f"(‖difference‖ {difference:.3e}, ‖actual‖ {a.norm():.3e}, ‖expected‖ {e.norm():.3e}; "
        f"rtol {rtol:.1e}, atol {atol:.1e})\nworst of {gap.numel()} entries:\n" + "\n".join(rows)
    )


def assert_each_close(
    actual: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 1e-8, what: str | None = None
) -> None:
    """Fail unless |actual − expected| <= atol + rtol · |expected| in each entry, as `torch.allclose` has it.

    Shape, dtype and device must be the same, too.
    """
    __tracebackhide__ = True
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=what and (lambda said: f"{what}: {said}"))
