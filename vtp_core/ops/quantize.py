"""Gradients through a quantiser: what comes back to the vectors although codes were looked up.

The value of each function is the codes; they differ in the gradient that reaches the vectors. None reaches
the codes: those learn by their own loss or by a moving average.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.ops.arguments import require_tensor
from vtp_core.ops.describe import described


def straight_through(vectors: Tensor, codes: Tensor) -> Tensor:
    """The codes, with the gradient of the identity (Bengio et al., arXiv 1308.3432).

    Args:
        vectors: (..., D) floating point, finite.
        codes: (..., D), the code of each vector, same dtype.

    Returns:
        (..., D), equal to `codes` exactly.

    Raises:
        TypeError: An argument is no tensor.
        ValueError: Shapes, dtypes or devices differ.
    """
    _check("straight_through", vectors, codes)
    # The difference is 0 exactly: vectors + (codes - vectors) would round.
    return codes.detach() + (vectors - vectors.detach())


def rotation_trick(vectors: Tensor, codes: Tensor) -> Tensor:
    """The codes, with the gradient of the rotation and scaling that takes each vector to its code.

    Rotation and scale are constants of the gradient (Fifty et al., arXiv 2410.06424, section 4). A gradient g
    at the code comes back as s (I - 2 r r^T + 2 u v^T) g, with the unit vectors u of the vector, v of the
    code and r of u + v, and the ratio s of their norms. Where one of both is zero, it comes back as it is.

    Args:
        vectors: (..., D) floating point, finite.
        codes: (..., D), the code of each vector, same dtype.

    Returns:
        (..., D), equal to `codes` exactly.

    Raises:
        TypeError: An argument is no tensor.
        ValueError: Shapes, dtypes or devices differ.
    """
    _check("rotation_trick", vectors, codes)
    wide = torch.promote_types(vectors.dtype, torch.float32)
    x, q = vectors.detach().to(wide), codes.detach().to(wide)
    x_norm, q_norm = x.norm(dim=-1, keepdim=True), q.norm(dim=-1, keepdim=True)
    none = (x_norm == 0) | (q_norm == 0)
    u, v = x / torch.where(none, 1.0, x_norm), q / torch.where(none, 1.0, q_norm)
    middle = u + v
    length = middle.norm(dim=-1, keepdim=True)
    r = middle / torch.where(length == 0, 1.0, length)
    scale = q_norm / torch.where(none, 1.0, x_norm)
    moving = vectors.to(wide)
    along_r, along_u = ((axis * moving).sum(-1, keepdim=True) for axis in (r, u))
    rotated = scale * (moving - 2 * r * along_r + 2 * v * along_u)
    return straight_through(torch.where(none, moving, rotated).to(vectors.dtype), codes)


def _check(name: str, vectors: Tensor, codes: Tensor) -> None:
    require_tensor(name, "vectors", vectors)
    require_tensor(name, "codes", codes)
    alike = vectors.shape == codes.shape and vectors.dtype == codes.dtype and vectors.device == codes.device
    if not alike or not vectors.is_floating_point():
        raise ValueError(
            f"{name}: vectors are {described(vectors)}, codes are {described(codes)}; "
            "they must be floating point and equal in all three"
        )
