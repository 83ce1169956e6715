"""Writes network files as StyleGAN2-ADA writes them, from what is known of their format, and computes what their networks compute.

The computation follows the papers' equations in float64, with a kernel for each sample, and shares nothing with mvgan's networks.
"""

import math
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
FILTER = torch.outer(TAPS, TAPS) / 64


class Saved:
    """A module whose pickle names `torch_utils.persistence`, with its source beside its state."""

    def __init__(self, name: str, parameters: dict[str, Tensor], buffers: dict[str, Tensor], modules: dict[str, Any], **more: Any) -> None:
        self.name = name
        self.state = {
            "training": False, "_parameters": OrderedDict((key, nn.Parameter(value)) for key, value in parameters.items()),
            "_buffers": OrderedDict(buffers), "_non_persistent_buffers_set": set(), "_modules": OrderedDict(modules), **more,
        }  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        source = "raise SystemExit('the source in the file was run')"
        about = {"type": "class", "version": 6, "module_src": source, "class_name": self.name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (about,)


@contextmanager
def their_modules() -> Iterator[None]:
    """The names that such a pickle holds, importable while it is written."""
    made = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")}

    def _reconstruct_persistent_obj(about: Any) -> None:
        raise AssertionError("only written, never read")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    easy = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    made["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    made["dnnlib.util"].EasyDict = easy  # type: ignore[attr-defined]
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


class Networks:
    """Random weights of a generator and a discriminator of `resolution` px and `colours`, under the official names."""

    def __init__(self, resolution: int = 16, base: int = 128, most: int = 12, z_dim: int = 8, w_dim: int = 10, colours: int = 3) -> None:
        rng = np.random.default_rng(0)

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(rng.standard_normal(shape)).float()

        self.resolution, self.sizes = resolution, [2**i for i in range(2, resolution.bit_length())]
        self.channels = {size: min(base // size, most) for size in self.sizes}
        self.z_dim, self.layers = z_dim, 3
        self.g: dict[str, Tensor] = {"mapping.w_avg": normal(w_dim)}
        self.d: dict[str, Tensor] = {}
        for i in range(self.layers):
            self.g |= {f"mapping.fc{i}.weight": normal(w_dim, w_dim if i else z_dim) * 100, f"mapping.fc{i}.bias": normal(w_dim) * 10}
        before = 0
        for size in self.sizes:
            c = self.channels[size]
            layers = {"conv1": (c, c, 3), "torgb": (colours, c, 1)} | ({"conv0": (c, before, 3)} if before else {})
            if not before:
                self.g["synthesis.b4.const"] = normal(c, 4, 4)
            for layer, (out, into, k) in layers.items():
                name = f"synthesis.b{size}.{layer}"
                self.g |= {f"{name}.weight": normal(out, into, k, k), f"{name}.bias": normal(out) * 0.1}
                self.g |= {f"{name}.affine.weight": normal(into, w_dim), f"{name}.affine.bias": 1 + normal(into) * 0.1}
                if layer != "torgb":
                    self.g |= {f"{name}.noise_const": normal(size, size), f"{name}.noise_strength": normal()}
            before = c
        for size in self.sizes[:0:-1]:
            c, c_out = self.channels[size], self.channels[size // 2]
            name = f"b{size}"
            if size == resolution:
                self.d |= {f"{name}.fromrgb.weight": normal(c, colours, 1, 1), f"{name}.fromrgb.bias": normal(c) * 0.1}
            self.d |= {f"{name}.conv0.weight": normal(c, c, 3, 3), f"{name}.conv0.bias": normal(c) * 0.1}
            self.d |= {f"{name}.conv1.weight": normal(c_out, c, 3, 3), f"{name}.conv1.bias": normal(c_out) * 0.1}
            self.d[f"{name}.skip.weight"] = normal(c_out, c, 1, 1)
        c = self.channels[4]
        self.d |= {"b4.conv.weight": normal(c, c + 1, 3, 3), "b4.conv.bias": normal(c) * 0.1, "b4.fc.weight": normal(c, 16 * c)}
        self.d |= {"b4.fc.bias": normal(c) * 0.1, "b4.out.weight": normal(1, c), "b4.out.bias": normal(1)}

    def file(self, **more: Any) -> bytes:
        """The network file."""
        with their_modules():
            easy = sys.modules["dnnlib.util"].EasyDict
            about = {
                "z_dim": self.z_dim,
                "c_dim": 0,
                "img_resolution": self.resolution,
                "_init_kwargs": easy(mapping_kwargs=easy(num_layers=3)),
            }
            g, d = saved("Generator", self.g, **about | more), saved("Discriminator", self.d, **about | more)
            return pickle.dumps({"G": g, "D": d, "G_ema": g, "training_set_kwargs": easy(path="x"), "augment_pipe": None})

    def image(self, z: Tensor) -> Tensor:
        """The image of the generator with its fixed noise, float64 [n, colours, resolution, resolution]."""
        g = {name: value.double() for name, value in self.g.items()}
        w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
        for i in range(self.layers):
            weight = g[f"mapping.fc{i}.weight"] * 0.01 / math.sqrt(w.shape[1])
            w = lrelu(w @ weight.T + g[f"mapping.fc{i}.bias"] * 0.01)
        x, image = g["synthesis.b4.const"].expand(len(z), -1, -1, -1), None
        for size in self.sizes:
            name = f"synthesis.b{size}"
            if size > 4:
                x = self._layer(g, f"{name}.conv0", x, w, up=True)
            x = self._layer(g, f"{name}.conv1", x, w, up=False)
            styles = self._styles(g, f"{name}.torgb", w) / math.sqrt(x.shape[1])
            new = modulated(x, g[f"{name}.torgb.weight"], styles, demodulate=False, up=False) + g[f"{name}.torgb.bias"][:, None, None]
            image = new if image is None else upsampled(image) + new
        assert image is not None
        return image

    def _styles(self, g: dict[str, Tensor], name: str, w: Tensor) -> Tensor:
        return w @ g[f"{name}.affine.weight"].T / math.sqrt(w.shape[1]) + g[f"{name}.affine.bias"]

    def _layer(self, g: dict[str, Tensor], name: str, x: Tensor, w: Tensor, *, up: bool) -> Tensor:
        y = modulated(x, g[f"{name}.weight"], self._styles(g, name, w), demodulate=True, up=up)
        y = y + g[f"{name}.noise_const"] * g[f"{name}.noise_strength"] + g[f"{name}.bias"][:, None, None]
        return lrelu(y)

    def score(self, image: Tensor) -> Tensor:
        """The discriminator's logits of images, one minibatch-stddev group: float64 [n]."""
        d = {name: value.double() for name, value in self.d.items()}
        top = f"b{self.resolution}.fromrgb"
        x = lrelu(conv(image, d[f"{top}.weight"], d[f"{top}.bias"]))
        for size in self.sizes[:0:-1]:
            name = f"b{size}"
            skip = conv(blurred(x, 1)[:, :, ::2, ::2], d[f"{name}.skip.weight"], None)
            y = lrelu(conv(x, d[f"{name}.conv0.weight"], d[f"{name}.conv0.bias"]))
            weight = d[f"{name}.conv1.weight"]
            y = F.conv2d(blurred(y, 2), weight / math.sqrt(weight[0].numel()), d[f"{name}.conv1.bias"], stride=2)
            x = (skip + lrelu(y)) * math.sqrt(0.5)
        deviation = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
        x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
        x = lrelu(conv(x, d["b4.conv.weight"], d["b4.conv.bias"])).flatten(1)
        x = lrelu(x @ d["b4.fc.weight"].T / math.sqrt(x.shape[1]) + d["b4.fc.bias"])
        return (x @ d["b4.out.weight"].T / math.sqrt(x.shape[1]) + d["b4.out.bias"])[:, 0]


def saved(name: str, tensors: dict[str, Tensor], **more: Any) -> Saved:
    """Nested modules of dotted names."""
    inner: dict[str, dict[str, Tensor]] = {}
    own: dict[str, Tensor] = {}
    for key, value in tensors.items():
        head, _, rest = key.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            own[head] = value
    buffers = {key: own.pop(key) for key in list(own) if key in ("w_avg", "noise_const")}
    if not inner:
        buffers["resample_filter"] = FILTER.float()
        # Their layers hold their factors as numpy's numbers.
        more |= {"weight_gain": 1 / np.sqrt(12), "act_gain": np.sqrt(2), "lr_multiplier": np.float32(0.01)}
    return Saved(name, own, buffers, {key: saved(key, value) for key, value in inner.items()}, **more)


def lrelu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution of the same size with the factor of the equalised learning rate."""
    return F.conv2d(x, weight / math.sqrt(weight[0].numel()), bias, padding=weight.shape[2] // 2)


def blurred(x: Tensor, padding: int) -> Tensor:
    kernel = FILTER.expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, [padding] * 4), kernel, groups=x.shape[1])


def upsampled(x: Tensor) -> Tensor:
    """Zeros between pixels, then the low-pass filter of gain 4 (StyleGAN2's upfirdn)."""
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, 2 * h, 2 * w)
    y[:, :, ::2, ::2] = x
    y = F.pad(y, [2, 1, 2, 1])
    return F.conv2d(y, 4 * FILTER.expand(c, 1, 4, 4), groups=c)


def modulated(x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool, up: bool) -> Tensor:
    """Sample by sample with a kernel of its own (StyleGAN2, Eq. 1 to 3)."""
    out = []
    for one, style in zip(x, styles, strict=True):
        kernel = weight * style[None, :, None, None]
        if demodulate:
            kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if not up:
            out.append(F.conv2d(one[None], kernel, padding=kernel.shape[2] // 2))
            continue
        wide = F.conv_transpose2d(one[None], kernel.transpose(0, 1), stride=2)
        out.append(4 * blurred(wide, 1))
    return torch.cat(out)
