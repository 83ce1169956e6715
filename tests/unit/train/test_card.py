"""The model card: read by Hugging Face's own parser, and compared with the files, records and results that it speaks of."""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from jobs import evaluate as verb
from mvgan.data.shards import ShardSet
from mvgan.evaluation.answer import answers
from mvgan.storage.run import RunFolder, read_run
from mvgan.train.card import BEGIN, CARD, TO_FILL_IN, public, yours_of
from mvgan.train.export import export_card, export_weights
from tests.unit.evaluation.test_subject import one_by_one
from tests.unit.jobs.test_cli import outcome


@pytest.fixture
def copied(tiny_run: RunFolder, tmp_path: Path) -> RunFolder:
    return read_run(shutil.copytree(tiny_run.uri, tmp_path / "faces|<b>"))


def card_of(folder: RunFolder) -> str:
    return folder.store.read(CARD).decode()


def rows(card: str, section: str) -> dict[str, list[str]]:
    """The cells of the tables of a section, by those of the first column."""
    (body,) = re.findall(rf"(?ms)^##+ {section}\n(.*?)(?=^##+ |\Z)", card)
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in body.splitlines() if line.startswith("| ")]
    return {first.strip("`"): rest for first, *rest in cells}


def test_hugging_face_reads_it(tiny_run: RunFolder) -> None:
    """Reference: huggingface_hub's parser."""
    card = ModelCard(card_of(tiny_run))
    assert card.data.to_dict() == {
        "license": "unknown",
        "library_name": "mvgan",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["motionvideogan", "stylegan2", "gan", "unconditional", "video-generation", "pytorch", "safetensors"],
    }
    assert card.text.lstrip().startswith("# run\n") and "---" not in card.text.split("\n## ")[0]


def test_it_lists_the_files_that_are_there(tiny_run: RunFolder) -> None:
    """Reference: hashlib on the files of the folder."""
    listed = {name: (cells[0].replace(",", ""), cells[1].strip("`")) for name, cells in rows(card_of(tiny_run), "Files").items()}
    paths = [path for path in Path(tiny_run.uri, "export").iterdir() if path.name != "README.md"]
    expected = {path.name: (str(path.stat().st_size), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths}
    assert {name: listed[name] for name in expected} == expected and len(listed) == len(expected) + 2, "with head and rule"


def test_figures_are_those_of_the_records(tiny_run: RunFolder) -> None:
    card = card_of(tiny_run)
    for stage, end in (("pairs", "64"), ("video", "16")):
        measured = [json.loads(line) for line in tiny_run.store.read(f"{stage}/metrics.jsonl").decode().splitlines()]
        by_images = {record["images"]: f"{record['frechet']:.4g}" for record in measured if "frechet" in record}
        found = rows(card, f"Stage {stage}")
        assert found["0"][0].startswith(by_images[0]) and found[f"{end}, the exported weights"][0].startswith(by_images[int(end)])
    edits = json.loads(tiny_run.store.read("export/codes.json"))["edits"]["generalized"]
    for direction, edit in edits.items():
        assert rows(card, "Motion codes")[direction] == [f"{edit['median']:.3g}", f"{edit['worst']:.3g}"]
    assert "seeded features, not FID" in card and "seeded features of clips, not FVD" in card
    assert "- FVD, FID and Inception Score" in card.partition("### Not measured")[2]


def test_data_and_settings(tiny_run: RunFolder) -> None:
    card, shards = card_of(tiny_run), ShardSet.open(tiny_run.data)
    data, settings = rows(card, "Data"), rows(card, "Settings")
    assert data["videos"] == ["8"] and data["frames"] == ["192, 24 to 24 a video"] and data["frames a second"] == ["25"]
    assert data["rejected sources"] == ["0"] and data["hash of its content"] == [f"`{shards.content_hash}`"]
    assert settings["resolution"] == ["16"] and settings["interval"] == ["4"] and settings["video.residual"] == ["0.5"]
    assert "pairs.tick_kimg" not in settings and tiny_run.data not in card, "a path of this machine tells nobody anything"


def test_what_it_says_of_loading_runs(tiny_run: RunFolder) -> None:
    """The lines themselves, with the run in place of the folder."""
    (code,) = re.findall(r"```python\n(.*?)```", card_of(tiny_run), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code.replace('"folder")', repr(tiny_run.uri) + ")"), found)
    assert f"# uint8 {list(found['videos'].shape)}" in code


def test_the_card_of_stage_1_promises_no_videos(copied: RunFolder) -> None:
    whole = card_of(copied)
    for name in ("codes.safetensors", "codes.json", "latent.safetensors", "README.md"):
        Path(copied.uri, "export", name).unlink()
    export_weights(copied, "pairs")
    card = card_of(copied)
    assert "makes no videos yet" in card and "Generator.load" not in card and "motion codes, 2" not in card
    assert "Stage video" not in card and not [name for name in rows(card, "Settings") if name.startswith(("codes.", "video."))]
    assert "image-generation" in ModelCard(card).data.tags and "makes no videos" not in whole


def test_the_card_of_single_frames_promises_none_at_all(copied: RunFolder) -> None:
    for name in ("codes.safetensors", "codes.json", "latent.safetensors"):
        Path(copied.uri, "export", name).unlink()
    run = dataclasses.replace(copied.run, network=dataclasses.replace(copied.run.network, frames=1))
    export_card(dataclasses.replace(copied, run=run))
    card = card_of(copied)
    assert "It makes no videos." in card and "yet" not in card and "Generator.load" not in card and "Videos can be had" not in card


def test_codes_of_another_generator_are_not_counted(copied: RunFolder) -> None:
    about = json.loads(copied.store.read("export/codes.json"))
    copied.store.write("export/codes.json", json.dumps(about | {"generator_sha256": "0" * 64}).encode())
    export_card(copied)
    assert "makes no videos yet" in card_of(copied)


def test_a_damaged_export_is_exported_anew_all_the_same(copied: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    """The export of stage 1 comes before that of the codes, which mends codes.json."""
    before = card_of(copied)
    for name in ("codes.json", "config.json"):
        copied.store.write(f"export/{name}", b"{")
    export_weights(copied, "pairs")
    assert "codes.json is damaged" in caplog.text and "config.json is damaged" in caplog.text and card_of(copied) != before


def test_the_same_folder_gives_the_same_bytes(copied: RunFolder) -> None:
    before = card_of(copied)
    for stage in ("pairs", "video"):
        export_weights(copied, stage)
    assert card_of(copied) == before.replace("# run\n", r"# faces\|\<b\>" + "\n")


def test_what_is_the_users_is_kept(copied: RunFolder) -> None:
    """As an editor leaves it, and read by Hugging Face's parser afterwards."""
    export_card(copied)
    card = card_of(copied)
    edited = card.replace("license: unknown\n", "license: other\nlicense_name: ours\n")
    edited = edited.replace(TO_FILL_IN, "- All rights: the museum.\n- Ja, ä.")
    copied.store.write(CARD, edited.replace("## Data", "## Changed").encode())
    export_card(copied)
    assert card_of(copied) == edited
    assert (ModelCard(edited).data.license, ModelCard(edited).data.license_name) == ("other", "ours")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda card: card.replace(BEGIN, ""), "not both there"),
        (lambda card: card.replace("license: unknown", "license: ["), "is no YAML"),
        (lambda card: card.replace("---\n", "", 1), "does not begin with front matter"),
        (lambda card: "---\n- a\n---\n" + card, "has no fields"),
    ],
)
def test_a_card_that_cannot_be_read_is_laid_aside(copied: RunFolder, spoil: Any, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    card = card_of(copied)
    copied.store.write(CARD, spoil(card).encode())
    export_card(copied)
    (aside,) = Path(copied.uri, "export").glob("README-*.md")
    assert aside.read_text() == spoil(card) and aside.name in caplog.text and reason in caplog.text
    assert yours_of(card_of(copied)).lines == TO_FILL_IN


def test_evaluate_adds_its_figures(copied: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The verb, in this process: results of the exported networks in full, those of other ones counted. Reference: its files."""

    def alone(folder: RunFolder, shards: ShardSet, question: Any, real: Any, found: Any, resources: Any) -> Any:
        return answers(folder, shards, question, real, found, one_by_one)

    monkeypatch.setattr(verb, "session", lambda resources: contextlib.nullcontext())
    monkeypatch.setattr(verb, "evaluate", alone)
    assert outcome(verb.run, verb.Flags, "--run", copied.uri, "--protocol", "training")[0] == 0
    (result,) = (json.loads(path.read_bytes()) for path in Path(copied.uri, "evaluation").glob("*.json"))
    (cells,) = (cells for measure, cells in rows(card_of(copied), "By `jobs.evaluate`").items() if measure == result["measure"])
    assert cells[0] == f"{result['distance']:.4g} ± {result['error']:.2g}" and cells[1:4] == ["`training`", "16 and 16", "4"]
    assert cells[6] == "these" and f"motion over real {result['clips']['motion_ratio']:.3g}" in cells[7]

    first = copied.commits("video").records()[-1].name
    assert outcome(verb.run, verb.Flags, "--run", copied.uri, "--protocol", "training", "--commit", first)[0] == 0
    copied.store.write("evaluation/torn.json", b"{")
    copied.store.write("evaluation/other.json", b'{"measure": "x"}')
    export_card(copied)
    card = card_of(copied)
    assert "\n1 more results in `evaluation/` of the run are of other networks" in card and card.count(result["measure"] + " |") == 1
    assert "torn.json is left out" in caplog.text and "other.json is left out" in caplog.text


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://bucket/sets/faces", "s3://bucket/sets/faces"),
        ("s3://key:secret@bucket/faces?token=t", "s3://bucket/faces"),
        ("/home/someone/sets/faces", "sets/faces (a local folder)"),
    ],
)
def test_places_are_told_without_what_is_nobodys_business(uri: str, told: str) -> None:
    assert public(uri) == told
