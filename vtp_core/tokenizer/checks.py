"""Checks of what a tokenizer's calls are given; each refusal is one line that says what is expected.

Shapes: B images, d latent channels, Q codebooks, h x w positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vtp_core.encoded import Encoded, require_finite
from vtp_core.errors import CheckpointError, NumericError, UsageError
from vtp_core.features import Features

LARGEST = 10.0
"""Largest magnitude of ImageNet-normalised pixels that is accepted; those of images are within 2.7."""


def place_of(*networks: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating dtype of the first network with weights; CPU and torch's default dtype without."""
    weights = (weight for network in networks for weight in network.parameters())
    first = next((weight for weight in weights if weight.is_floating_point()), torch.empty(0, device="cpu"))
    return first.device, first.dtype


def checked_pixels(caller: str, pixels: Tensor, patch: int, *networks: nn.Module) -> Tensor:
    """Pixels (B, 3, H, W) in the dtype of the networks.

    Pixels beyond +-10 and NaN are refused on a CPU. On other devices, where reading them would wait for
    the device, such an image becomes NaN, and so does all that is computed from it.

    Raises:
        UsageError: Another shape, dtype, range or device.
    """
    check_float(caller, "pixels (B, 3, H, W), ImageNet-normalised: use preprocess()", pixels)
    if pixels.dim() != 4 or pixels.shape[1] != 3:
        raise UsageError(f"{caller}: expected pixels (B, 3, H, W), got {tuple(pixels.shape)}")
    height, width = pixels.shape[-2:]
    if height % patch or width % patch or not height or not width:
        raise UsageError(f"{caller}: height and width must be multiples of {patch}, got {height} x {width}")
    pixels = _placed(caller, "the pixels are", pixels, networks)
    if torch.compiler.is_compiling() or not len(pixels):
        return pixels
    largest = pixels.detach().abs().amax((1, 2, 3))
    if pixels.device.type != "cpu":
        return torch.where((largest > LARGEST)[:, None, None, None], torch.nan, pixels)
    # tolist() reads the memory of a CPU tensor; item() would count as a synchronisation.
    if any(not value <= LARGEST for value in largest.tolist()):  # NaN too
        raise UsageError(
            f"{caller}: pixels beyond +-10 or NaN are not ImageNet-normalised (0 to 255 perhaps): use "
            "preprocess()"
        )
    return pixels


def checked_size(caller: str, size: object, patch: int) -> tuple[int, int]:
    """Rows and columns of pixels.

    Args:
        caller: For the message.
        size: A side, or rows and columns.
        patch: What both must be multiples of.

    Raises:
        UsageError: Something else.
    """
    sides = size if isinstance(size, tuple | list) else (size, size)
    whole = all(type(side) is int and side > 0 and side % patch == 0 for side in sides)
    if len(sides) != 2 or not whole:
        raise UsageError(
            f"{caller}: size must be a multiple of the patch {patch}, or rows and columns; got {size!r}"
        )
    return sides[0], sides[1]


def checked_latent(caller: str, latent: Tensor, channels: int, *networks: nn.Module) -> Tensor:
    """A latent (B, d, h, w) in the dtype of the networks.

    Raises:
        UsageError: Another shape, dtype or device.
    """
    expected = f"a float latent (B, {channels}, h, w)"
    check_float(caller, f"{expected}; use decode_indices for codes", latent)
    if latent.dim() != 4 or latent.shape[1] != channels or 0 in latent.shape[2:]:
        raise UsageError(f"{caller}: expected {expected}, got {latent.dtype} {tuple(latent.shape)}")
    return _placed(caller, "the latent is", latent, networks)


def checked_codes(caller: str, codes: Tensor, sizes: Sequence[int], *networks: nn.Module) -> Tensor:
    """Codes (B, Q, h, w) as int64, each within its codebook.

    Raises:
        UsageError: Another shape, dtype or device, or an index that its codebook lacks.
    """
    expected = f"codes (B, {len(sizes)}, h, w) int64, as in encode(pixels).indices"
    _check_whole(caller, expected, codes)
    if codes.dim() != 4 or codes.shape[1] != len(sizes) or 0 in codes.shape[2:]:
        raise UsageError(f"{caller}: expected {expected}, got {tuple(codes.shape)}")
    codes = _placed(caller, "the codes are", codes, networks, cast=False).long()
    if not torch.compiler.is_compiling() and len(codes):
        for index, size in enumerate(sizes):
            least, most = (int(bound) for bound in torch.aminmax(codes[:, index]))
            if least < 0 or most >= size:
                raise UsageError(
                    f"{caller}: codes of codebook {index} are 0 to {size - 1}, these are {least} to {most}; "
                    "they are of another tokenizer"
                )
    return codes


def checked_samples(caller: str, indices: Tensor, seed: int, device: torch.device) -> Tensor:
    """Indices of samples (B,) as int64.

    Raises:
        UsageError: Another shape, dtype or device, or a seed that is no integer.
    """
    _check_whole(caller, "indices (B,) int64", indices)
    if indices.dim() != 1:
        raise UsageError(f"{caller}: expected indices (B,) int64, got {tuple(indices.shape)}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageError(f"{caller}: the seed must be an integer, got {type(seed).__name__}")
    if indices.device != device:
        raise UsageError(f"{caller}: the indices are on {indices.device}, the tokenizer on {device}")
    return indices.long()


def checked_classes(caller: str, classes: Tensor, indices: Tensor, known: int) -> Tensor:
    """Classes of samples (B,) as int64.

    Raises:
        UsageError: A generator without classes, another shape or device, or a class that it does not have.
    """
    if not known:
        raise UsageError(f"{caller}: this tokenizer's generator knows no classes; leave them out")
    _check_whole(caller, "classes (B,) int64", classes)
    if classes.shape != indices.shape or classes.device != indices.device:
        raise UsageError(
            f"{caller}: expected classes {tuple(indices.shape)} on {indices.device}, got "
            f"{tuple(classes.shape)} on {classes.device}"
        )
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < known:
        raise UsageError(
            f"{caller}: classes are 0 to {known - 1}, got {int(classes.min())} to {int(classes.max())}"
        )
    return classes.long()


def checked_texts(caller: str, texts: object) -> list[str]:
    """Texts as a list.

    Raises:
        UsageError: Something that is no text.
    """
    found = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, list | tuple) else None
    if found is None:
        raise UsageError(f"{caller}: expected texts or one text, got {type(texts).__name__}")
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise UsageError(f"{caller}: text {index} is a {type(text).__name__}, not a str")
    return found


def checked_layers(caller: str, layers: Sequence[object], depth: int) -> tuple[int, ...]:
    """Encoder blocks to tap.

    Raises:
        UsageError: One that the encoder lacks.
    """
    taps: list[int] = []
    for layer in layers if isinstance(layers, list | tuple | range) else [layers]:
        if type(layer) is not int or not 0 <= layer < depth:
            raise UsageError(f"{caller}: can't tap block {layer!r}; the encoder's are 0 to {depth - 1}")
        taps.append(layer)
    return tuple(taps)


def checked_features(caller: str, features: Features) -> Features:
    """Features, as `Tokenizer.features` returns them.

    Raises:
        UsageError: Something else.
    """
    if not isinstance(features, Features):
        raise UsageError(f"{caller}: expected what features() returns, got {type(features).__name__}")
    return features


def check_finite_features(features: Features, encoder: nn.Module) -> None:
    """Refuses encoder tokens that are not finite; waits for the device.

    Raises:
        NumericError: Names the first such tensor and its row.
    """
    tokens = features["global"]
    values = {"patch tokens are": tokens.patches, "the class token is": tokens.cls}
    taps = {f"tokens of layer {layer} are": value for layer, value in tokens.layers.items()}
    require_finite("encoder", {**taps, **values}, encoder)


def check_finite_latent(encoded: Encoded, bottleneck: nn.Module) -> None:
    """Refuses a latent that is not finite, or codes of a bottleneck with such weights; waits for the device.

    Codes are whole numbers even where they were computed from NaN.

    Raises:
        NumericError: Names the first such tensor.
    """
    require_finite("bottleneck", {"the latent is": encoded.latent}, bottleneck)
    if encoded.indices is None:
        return
    for name, tensor in bottleneck.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise NumericError(f"bottleneck: its weight {name} is not finite, so its codes mean nothing")


def broken_weights(model: nn.Module) -> list[str]:
    """Names of the parameters and saved buffers that are not finite; one synchronisation with each device."""
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    sound: dict[torch.device, list[Tensor]] = {}
    for value in state.values():
        sound.setdefault(value.device, []).append(value.isfinite().all())
    if all(bool(torch.stack(flags).all()) for flags in sound.values()):
        return []
    return [name for name, value in state.items() if not bool(value.isfinite().all())]


def check_weights(where: object, model: nn.Module) -> None:
    """Refuses a model that was read and has weights that are not finite.

    Args:
        where: Its folder or file, for the message.
        model: The model.

    Raises:
        CheckpointError: Names the first such tensor.
    """
    if broken := broken_weights(model):
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise CheckpointError(
            f"{where}: its weight {broken[0]}{more} is not finite; it is damaged or its training failed, "
            "fetch or export it again"
        )


def check_float(caller: str, expected: str, value: Tensor) -> None:
    """Refuses what is no floating-point tensor.

    Raises:
        UsageError: Says what is expected.
    """
    if not isinstance(value, Tensor):
        raise UsageError(f"{caller}: expected {expected}; got {type(value).__name__}")
    if not value.is_floating_point():
        raise UsageError(f"{caller}: expected {expected}; got {value.dtype}")


def _check_whole(caller: str, expected: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise UsageError(f"{caller}: expected {expected}; got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise UsageError(f"{caller}: expected {expected}; got {value.dtype}")


def _placed(
    caller: str, what: str, value: Tensor, networks: Sequence[nn.Module], *, cast: bool = True
) -> Tensor:
    """A tensor in the dtype of the networks' weights; refused if it is on another device."""
    device, dtype = place_of(*networks)
    if value.device != device:
        raise UsageError(
            f"{caller}: {what} on {value.device}, the tokenizer on {device}; use .to({str(device)!r})"
        )
    return value.to(dtype) if cast else value
