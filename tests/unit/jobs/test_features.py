"""The verb `features`: what it says of a file, the status it ends with, and the weights that it keeps."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

import jobs.features
from jobs._cli import main
from mvgan.metrics import i3d_check
from mvgan.metrics.i3d import load_i3d
from mvgan.storage.uri import open_store
from tests.unit.metrics.i3d_files import published, random_i3d, table, torchscript, with_one_bit_changed


Tensors = dict[str, Tensor]
Check = Callable[..., tuple[int, str, str]]
NAME = "Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w"


@pytest.fixture(scope="module")
def networks() -> tuple[Tensors, Tensors]:
    return random_i3d(0), random_i3d(1)


@pytest.fixture(scope="module")
def their_table(networks: tuple[Tensors, Tensors]) -> tuple[i3d_check.Variable, ...]:
    return table(*networks)


@pytest.fixture
def known(their_table: tuple[i3d_check.Variable, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The random networks in place of that of FVD and rgb_imagenet."""
    monkeypatch.setattr(i3d_check, "variables", lambda: their_table)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs `features check`: exit status, standard output and standard error."""

    def call(*flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["features", "check", *flags])
        status = 0
        try:
            main(jobs.features.run, jobs.features.Flags, "")
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return call


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.usefixtures("known")
def test_the_network_of_fvd(check: Check, networks: tuple[Tensors, Tensors], tmp_path: Path) -> None:
    """Of a TorchScript file, and of the weights that are written from it, which give the same logits."""
    file, out = tmp_path / "i3d.pt", tmp_path / "kept" / "i3d.safetensors"
    file.write_bytes(published(networks[0]))
    weights = f"features: {file} has all 230 variables of the I3D of FVD, sha256 {sha256(file.read_bytes())}\n"
    said = f"{weights}features: and computes what I3D computes with them\n"
    assert check(str(file)) == (0, said, "")
    assert not out.parent.exists()
    status, printed, err = check(str(file), "--out", str(out))
    written = out.read_bytes()
    assert (status, printed, err) == (0, f"{said}features: its weights are in {out}, sha256 {sha256(written)}\n", "")
    assert check(str(out)) == (0, weights.replace(str(file), str(out)).replace(sha256(file.read_bytes()), sha256(written)), "")
    clips = torch.rand((1, 3, 9, 224, 224), generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(load_i3d(load(written))(clips), load_i3d(networks[0])(clips))


@pytest.mark.usefixtures("known")
def test_what_the_code_of_a_file_computes_is_said(check: Check, networks: tuple[Tensors, Tensors], tmp_path: Path) -> None:
    """The right weights with another call, and with something done to what they give."""
    file = tmp_path / "i3d.pt"
    for data, words in (
        (torchscript(networks[0]), "does not take uint8 [n, 3, t, h, w] with rescale"),
        (published(networks[0], factor=1.05), "but its code computes other features than I3D, 0.05 off on a test clip"),
    ):
        file.write_bytes(data)
        status, printed, err = check(str(file))
        assert (status, err) == (0, "") and words in printed and "--out" in printed


@pytest.mark.usefixtures("known")
def test_nothing_is_overwritten(check: Check, networks: tuple[Tensors, Tensors], tmp_path: Path) -> None:
    file = tmp_path / "i3d.safetensors"
    file.write_bytes(save(networks[0]))
    (tmp_path / "folder.safetensors").mkdir()
    for out in (str(file), str(tmp_path / "folder.safetensors")):
        status, _, err = check(str(file), "--out", out)
        assert (status, err) == (2, f"error: {out} is there already and is not overwritten; give --out a new name\n")
    assert file.read_bytes() == save(networks[0])


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("form", [torchscript, save])
def test_rgb_imagenet_is_refused_by_name(
    check: Check, networks: tuple[Tensors, Tensors], form: Callable[[Tensors], bytes], tmp_path: Path
) -> None:
    (tmp_path / "i3d").write_bytes(form(networks[1]))
    status, printed, err = check(str(tmp_path / "i3d"), "--out", str(tmp_path / "out.safetensors"))
    assert (status, printed, err.count("\n")) == (2, "", 1)
    assert "is the I3D rgb_imagenet, which gives plausible but wrong FVDs" in err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.usefixtures("known")
def test_one_other_bit_is_told(check: Check, networks: tuple[Tensors, Tensors], tmp_path: Path) -> None:
    (tmp_path / "i3d").write_bytes(torchscript(with_one_bit_changed(networks[0], NAME)))
    status, printed, err = check(str(tmp_path / "i3d"), "--out", str(tmp_path / "out.safetensors"))
    assert (status, printed, err.count("\n")) == (2, "", 1)
    assert f"of its 230 variables 1 are missing or have other values, first {NAME}; give" in err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("form", [torchscript, save])
def test_a_network_of_other_values(
    check: Check, networks: tuple[Tensors, Tensors], form: Callable[[Tensors], bytes], tmp_path: Path
) -> None:
    """Against the true table."""
    (tmp_path / "i3d").write_bytes(form(networks[0]))
    status, printed, err = check(str(tmp_path / "i3d"))
    assert (status, printed, err.count("\n")) == (2, "", 1)
    assert "of its 230 variables 230 are missing or have other values, first Conv3d_1a_7x7/batch_norm/beta; give" in err


def test_mistakes(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a file is read, where that is possible; nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no network")
    cases = [
        (("nowhere.pt",), "there is no file nowhere.pt; give the path or s3:// URI"),
        ((".",), "there is no file .; give"),
        (("folder/",), "there is no file folder/; give"),
        (("/",), "there is no file /; give"),
        (("",), "--file is empty"),
        (("text",), "text is neither TorchScript nor safetensors"),
        (("gs://bucket/i3d.pt",), "scheme 'gs'"),
        (("text", "--out", "i3d.pt"), "cannot write weights to 'i3d.pt'; give --out a name that ends in .safetensors"),
        (("text", "--out", "folder/"), "cannot write weights to 'folder/'"),
        (("text", "--out", ""), "--out is empty"),
    ]
    for flags, message in cases:
        status, printed, err = check(*flags)
        assert (status, printed, err.count("\n")) == (2, "", 1) and message in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.usefixtures("known")
def test_files_on_s3(check: Check, networks: tuple[Tensors, Tensors], s3: str) -> None:
    open_store(s3).write("networks/i3d.pt", torchscript(networks[0]))
    status, printed, err = check(f"{s3}/networks/i3d.pt", "--out", f"{s3}/networks/i3d.safetensors")
    assert (status, err) == (0, "") and printed.count("\n") == 3
    assert load(open_store(s3).read("networks/i3d.safetensors")).keys() == networks[0].keys()
    assert check(f"{s3}/networks/i3d.pt", "--out", f"{s3}/networks/i3d.safetensors")[0] == 2
