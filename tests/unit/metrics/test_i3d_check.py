"""Which I3D a file holds: told by content, whatever names, order and layout; a single other bit is seen."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from mvgan.config import InputError
from mvgan.metrics import i3d_check
from mvgan.metrics.i3d_check import crc32c, identify, read_tensors_of, variables
from tests.unit.metrics.i3d_files import EQUAL, in_tf, random_i3d, table, torchscript, with_one_bit_changed


Tensors = dict[str, Tensor]
WEIGHT = "Mixed_4d/Branch_1/Conv3d_0b_3x3/conv_3d/w"


@pytest.fixture(scope="module")
def networks() -> Iterator[tuple[Tensors, Tensors]]:
    """Random networks in place of that of FVD and rgb_imagenet."""
    fvd, imagenet = random_i3d(0), random_i3d(1)
    found = table(fvd, imagenet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(i3d_check, "variables", lambda: found)
        yield fvd, imagenet


@pytest.mark.parametrize(
    ("data", "crc"),
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (bytes(range(31, -1, -1)), 0x113FDB5C)],
)
def test_the_crc_is_that_of_rfc_3720(data: bytes, crc: int) -> None:
    """Reference: the examples in its appendix B.4."""
    assert crc32c(torch.from_numpy(np.frombuffer(data, np.float32).copy())) == crc


def test_the_crc_is_made_in_c() -> None:
    """The package's way in Python would take minutes for a network."""
    assert google_crc32c.implementation == "c"


def test_the_table_is_whole() -> None:
    found = variables()
    assert [v.name for v in found] == sorted({v.name for v in found}) and len(found) == 230
    for network in ("fvd", "rgb_imagenet"):
        assert len({v.crcs[network] for v in found}) == 230
    assert not {v.crcs["fvd"] for v in found} & {v.crcs["rgb_imagenet"] for v in found}


def test_the_table_is_that_of_the_published_files() -> None:
    root = os.environ.get("MVGAN_TEST_DATA")
    if not root:
        pytest.skip("MVGAN_TEST_DATA is not set: the published CRCs are kept with the test data")
    published = json.loads(Path(root, "fvd", "i3d_variables_crc32c.json").read_text())
    for network, key in (("fvd", "tfhub_i3d_kinetics_400"), ("rgb_imagenet", "rgb_imagenet_not_the_fvd_model")):
        expected = {name: ([n for n in about["shape"] if n != 1], about["crc32c"]) for name, about in published[key].items()}
        found = {f"RGB/inception_i3d/{v.name}": ([n for n in v.shape if n != 1], v.crcs[network]) for v in variables()}
        assert found == expected and len(found) == 230
    for v in variables():
        shape = published["tfhub_i3d_kinetics_400"][f"RGB/inception_i3d/{v.name}"]["shape"]
        assert list(v.shape) == (shape if v.name.endswith("/w") else shape[-1:])


def test_the_installed_package_has_the_table(tmp_path: Path) -> None:
    """By an interpreter that looks for packages only where they are installed."""
    try:
        importlib.metadata.distribution("mvgan")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("mvgan is not installed")
    code = "from mvgan.metrics.i3d_check import variables; print(len(variables()))"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "230\n"), done.stderr


def test_other_values_are_refused() -> None:
    """The true table against random networks, of the same names even: nothing is found."""
    fvd = random_i3d(0)
    for data in (torchscript(fvd), save(fvd)):
        found = identify(read_tensors_of(data, "file"))
        assert found.network is None and found.variables == {}
        assert found.missing == [v.name for v in variables()] and found.missing[0] == "Conv3d_1a_7x7/batch_norm/beta"


def test_a_network_is_found_by_what_it_holds(networks: tuple[Tensors, Tensors]) -> None:
    """From TorchScript with other names, from safetensors, and in TensorFlow's layout; two variables have equal values."""
    for network, tensors in zip(("fvd", "rgb_imagenet"), networks, strict=True):
        in_tensorflow = {name: torch.from_numpy(in_tf(tensor)) for name, tensor in tensors.items()}
        for data in (torchscript(tensors), save(tensors), save(in_tensorflow)):
            found = identify(read_tensors_of(data, "file"))
            assert (found.network, found.missing) == (network, [])
            assert found.variables.keys() == tensors.keys()
            assert all(torch.equal(found.variables[name], tensor) for name, tensor in tensors.items())


def test_one_other_bit_is_seen(networks: tuple[Tensors, Tensors]) -> None:
    fvd, imagenet = networks
    for name in (WEIGHT, "Logits/Conv3d_0c_1x1/conv_3d/b"):
        found = identify(with_one_bit_changed(fvd, name))
        assert (found.network, found.missing) == (None, [name]) and len(found.variables) == 229
    found = identify(with_one_bit_changed(imagenet, WEIGHT))
    assert found.network is None and len(found.missing) == 230


def test_of_two_equal_variables_both_are_needed(networks: tuple[Tensors, Tensors]) -> None:
    fvd, _ = networks
    assert torch.equal(fvd[EQUAL[0]], fvd[EQUAL[1]])
    for name in EQUAL:
        for spoilt in (with_one_bit_changed(fvd, name), {key: tensor for key, tensor in fvd.items() if key != name}):
            found = identify(spoilt)
            assert found.network is None and len(found.missing) == 1 and found.missing[0] in EQUAL


def test_rounded_weights_are_other_weights(networks: tuple[Tensors, Tensors]) -> None:
    """Neither half precision nor its way back, and no double either: the table is of float32."""
    for kind in (torch.float16, torch.float64):
        assert len(identify({name: tensor.to(kind) for name, tensor in networks[0].items()}).missing) == 230
    rounded = identify({name: tensor.half().float() for name, tensor in networks[0].items()})
    assert len(rounded.missing) == 230


@pytest.mark.parametrize("data", [b"", b"no network", b"PK\x03\x04 cut", save({"a": torch.zeros(3)})[:-1]])
def test_other_files(data: bytes) -> None:
    with pytest.raises(InputError, match=r"x\.pt is neither TorchScript nor safetensors") as error:
        read_tensors_of(data, "x.pt")
    assert "\n" not in str(error.value)
