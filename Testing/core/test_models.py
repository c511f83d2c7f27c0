"""Model folders: saved whole, checked when read, moved by zip files that can't do harm."""

import copy
import io
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from simcvd import models
from simcvd.files import read_json, sha256, write_json
from simcvd.models import (
    ModelError,
    build_network,
    delete_model,
    export_model,
    find_model,
    import_model,
    list_models,
    load_card,
    load_weights,
    model_folders,
    save_model,
)
from simcvd.network import VNet

CARD = {
    "name": "left-atrium",
    "version": "1",
    "title": "Left atrium",
    "segments": [
        {
            "value": 1,
            "name": "Left atrium",
            "color": [0.8, 0.2, 0.2],
            "terminology": {
                "category": ["SCT", "123037004", "Anatomical Structure"],
                "type": ["SCT", "82471001", "Left atrium"],
                "modifier": None,
                "region": None,
            },
        }
    ],
    "grid": {"spacing": [1.25, 1.25, 1.25], "axes": "LPS"},
    "normalisation": {"kind": "zscore"},
    "patch": [48, 64, 64],
    "network": {"kind": "vnet", "n_classes": 2, "in_channels": 1, "n_filters": 2},
}


def network_state(n_filters=2):
    torch.manual_seed(0)
    return VNet(n_filters=n_filters).state_dict()


def arrays(n_filters=2):
    return {name: t.numpy() for name, t in network_state(n_filters).items()}


def card(**changes):
    return {**copy.deepcopy(CARD), **changes}


@pytest.fixture(autouse=True)
def user(tmp_path, monkeypatch):
    """A user's models folder that is empty, and no shipped model but those a test puts there."""
    monkeypatch.setenv("SIMCVD_MODELS", str(tmp_path / "user"))
    monkeypatch.setattr(models, "_shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path / "user"


@pytest.fixture
def model(user):
    save_model(user / "left-atrium", CARD, arrays())
    return user / "left-atrium"


def zipped(path, entries):
    """A zip file of (name or ZipInfo, bytes) pairs."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def parts(model):
    return (model / "card.json").read_bytes(), (model / "weights.npz").read_bytes()


class TestSave:
    def test_weights_come_back_in_half_precision_without_counters(self, model):
        weights = load_weights(model, load_card(model))
        state = network_state()
        assert set(weights) == {name for name, t in state.items() if t.is_floating_point()}
        for name, array in weights.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, state[name].half().float().numpy())

    def test_card_is_completed(self, model):
        saved = load_card(model)
        assert saved["format"] == 1 and saved["sha256"] == sha256(model / "weights.npz")
        assert {name: saved[name] for name in CARD} == CARD
        assert (saved["licence"], saved["training"], saved["quality"]) == ("", {}, [])

    def test_the_same_state_gives_the_same_file(self, model, tmp_path):
        save_model(tmp_path / "again", CARD, arrays())
        assert parts(tmp_path / "again") == parts(model)

    def test_existing_folders_are_kept(self, model, tmp_path):
        before = parts(model)
        with pytest.raises(ModelError, match="exists already; allow overwriting"):
            save_model(model, card(version="2"), arrays())
        assert parts(model) == before
        save_model(model, card(version="2"), arrays(), overwrite=True)
        assert load_card(model)["version"] == "2"
        assert [p.name for p in model.parent.iterdir()] == ["left-atrium"]

    def test_a_folder_that_is_no_model_is_never_overwritten(self, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
        with pytest.raises(ModelError, match="exists already; choose another name"):
            save_model(tmp_path / "thesis", CARD, arrays(), overwrite=True)
        assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
    def test_nothing_is_left_of_a_failed_save(self, user, value):
        with pytest.raises(ModelError, match="bad are not finite"):
            save_model(user / "m", CARD, {**arrays(), "bad": np.array([value], np.float32)})
        with pytest.raises(ModelError, match="no usable patch"):
            save_model(user / "m", card(patch=None), arrays())
        assert not user.exists() or not list(user.iterdir())

    def test_a_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ModelError, match="can't be written"):
            save_model(tmp_path / "file" / "m", CARD, arrays())


class TestCard:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("format", 2),
            ("name", "a/b"),
            ("name", "../a"),
            ("name", ".hidden"),
            ("name", "a."),
            ("name", ""),
            ("name", "a\n"),
            ("name", "x" * 65),
            ("version", 1),
            ("title", None),
            ("training", []),
            ("quality", {}),
            ("segments", None),
            ("segments", []),
            ("segments", [{**CARD["segments"][0], "value": 2}]),
            ("segments", CARD["segments"] * 2),
            ("grid", None),
            ("grid", {"spacing": [1, 1], "axes": "LPS"}),
            ("grid", {"spacing": [1, 1, 0], "axes": "LPS"}),
            ("grid", {"spacing": [1, 1, float("nan")], "axes": "LPS"}),
            ("grid", {"spacing": [1, 1, 1], "axes": "RAS"}),
            ("normalisation", {}),
            ("patch", [48, 64, 60]),
            ("patch", [48, 64, 0]),
            ("network", {**CARD["network"], "kind": "unet"}),
            ("network", {**CARD["network"], "n_classes": True}),
            ("network", {**CARD["network"], "n_filters": 10**9}),
            ("sha256", "abc"),
            ("scan_ml", [9, 2]),
        ],
    )
    def test_the_wrong_field_is_named(self, model, field, value):
        content = read_json(model / "card.json")
        (model / "card.json").write_text(json.dumps({**content, field: value}))
        with pytest.raises(ModelError, match=f"no usable {field}"):
            load_card(model)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", ""),
            ("color", [0, 0, 2]),
            ("color", "red"),
            ("terminology", {"category": ["a", "b", "c"]}),
            ("volume_ml", [9, 2]),
        ],
    )
    def test_the_wrong_field_of_a_segment_is_named(self, tmp_path, field, value):
        segments = [{**CARD["segments"][0], field: value}]
        with pytest.raises(ModelError, match=f"no usable {field} in segment 1"):
            save_model(tmp_path / "m", card(segments=segments), arrays())

    def test_a_segment_may_have_no_terminology(self, tmp_path):
        save_model(tmp_path / "m", card(segments=[{**CARD["segments"][0], "terminology": None}]), arrays())
        assert load_card(tmp_path / "m")["segments"][0]["terminology"] is None

    @pytest.mark.parametrize(
        ("text", "sentence"), [("{", "can't be read"), ("[1]", "no JSON object"), ("[" * 10**5, "can't be read")]
    )
    def test_a_card_that_is_no_card(self, model, text, sentence):
        (model / "card.json").write_text(text)
        with pytest.raises(ModelError, match=sentence):
            load_card(model)

    def test_no_model_folder(self, tmp_path):
        with pytest.raises(ModelError, match=r"no model folder: it has no card\.json"):
            load_card(tmp_path)


class TestWeights:
    def test_changed_weights_are_refused(self, model):
        content = bytearray((model / "weights.npz").read_bytes())
        content[2000] ^= 1
        (model / "weights.npz").write_bytes(content)
        with pytest.raises(ModelError, match="damaged or not those of the card"):
            load_weights(model, load_card(model))

    def replace(self, model, content):
        (model / "weights.npz").write_bytes(content)
        write_json(model / "card.json", {**read_json(model / "card.json"), "sha256": sha256(model / "weights.npz")})

    def test_pickled_objects_are_not_loaded(self, model):
        class Evil:
            def __reduce__(self):
                return exit, (3,)

        buffer = io.BytesIO()
        np.savez(buffer, weights=np.array([Evil()], dtype=object))
        self.replace(model, buffer.getvalue())
        with pytest.raises(ModelError, match="can't be read"):
            load_weights(model, load_card(model))

    def test_other_contents_are_refused(self, model):
        buffer = io.BytesIO()
        np.savez(buffer, weights=np.array(["text"]))
        for content in (b"", b"not a zip", buffer.getvalue()):
            self.replace(model, content)
            with pytest.raises(ModelError, match="can't be read"):
                load_weights(model, load_card(model))

    def test_weights_that_unpack_beyond_the_limit(self, model, monkeypatch):
        monkeypatch.setattr(models, "MAX_BYTES", 1000)
        with pytest.raises(ModelError, match="can't be read"):
            load_weights(model, load_card(model))

    def test_missing_weights(self, model):
        (model / "weights.npz").unlink()
        with pytest.raises(ModelError, match=r"has no weights\.npz"):
            load_weights(model, load_card(model))


class TestNetwork:
    def test_it_computes_what_was_saved(self, model):
        network, loaded = build_network(model)
        assert loaded["name"] == "left-atrium" and not network.training
        reference = VNet(n_filters=2).eval()
        reference.load_state_dict(
            {k: v.half().float() if v.is_floating_point() else v for k, v in network_state().items()}
        )
        x = torch.randn(1, 1, 16, 16, 32, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            for a, b in zip(network(x), reference(x), strict=True):
                torch.testing.assert_close(a, b)
        assert all(p.dtype == torch.float32 and p.requires_grad and not p.is_meta for p in network.parameters())
        assert not any(b.is_meta for b in network.buffers())

    def test_it_can_be_trained_on(self, model):
        network, _ = build_network(model)
        optimiser = torch.optim.SGD(network.train().parameters(), 0.1)
        before = network.segmentation_head.weight.detach().clone()
        network(torch.randn(1, 1, 16, 16, 32)).logits.square().mean().backward()
        optimiser.step()
        assert not torch.equal(before, network.segmentation_head.weight)

    def test_weights_of_another_network(self, tmp_path):
        save_model(tmp_path / "wide", CARD, arrays(n_filters=4))
        with pytest.raises(ModelError, match="has the shape"):
            build_network(tmp_path / "wide")
        state = arrays()
        del state["segmentation_head.weight"]
        save_model(tmp_path / "less", CARD, state)
        with pytest.raises(ModelError, match=r"segmentation_head\.weight is missing"):
            build_network(tmp_path / "less")
        save_model(tmp_path / "more", CARD, {**arrays(), "third_head": np.zeros(3, np.float32)})
        with pytest.raises(ModelError, match="third_head is unknown"):
            build_network(tmp_path / "more")

    def test_cards_are_read_without_torch(self, model):
        code = (
            "import sys; sys.modules['torch'] = sys.modules['SimpleITK'] = None\n"
            "from simcvd.models import *; card = load_card(sys.argv[1]); print(len(load_weights(sys.argv[1], card)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(model)],
            env={"PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout) > 100


class TestPlaces:
    def test_listed_with_their_problems(self, model, tmp_path):
        save_model(tmp_path / "shipped" / "atlas", card(name="atlas"), arrays())
        save_model(tmp_path / "shipped" / "left-atrium", card(version="old"), arrays())
        (model.parent / "broken").mkdir()
        (model.parent / "broken" / "card.json").write_text("{")
        (model.parent / "empty").mkdir()
        save_model(model.parent / "half", card(name="half"), arrays())
        (model.parent / "half" / "weights.npz").unlink()
        listed = list_models()
        assert [(name, folder) for name, folder, _, _ in listed] == [
            ("atlas", tmp_path / "shipped" / "atlas"),
            ("broken", model.parent / "broken"),
            ("half", model.parent / "half"),
            ("left-atrium", model),
        ]
        assert listed[1][2] is None and "can't be read" in listed[1][3]
        assert listed[2][2] is None and "has no weights.npz" in listed[2][3]
        assert listed[3][2]["version"] == "1" and listed[3][3] is None

    def test_one_that_may_not_be_read_is_listed_as_such(self, model, monkeypatch):
        is_file = Path.is_file

        def refuse(path):
            if path.parent == model:
                raise PermissionError(13, "Permission denied")
            return is_file(path)

        monkeypatch.setattr(Path, "is_file", refuse)
        ((name, _, found, problem),) = list_models()
        assert (name, found) == ("left-atrium", None) and "ask whoever made it for access" in problem

        with pytest.raises(ModelError, match="ask whoever made it for access"):
            find_model("left-atrium")

    @pytest.mark.parametrize("how", [KeyboardInterrupt, OSError])
    def test_a_model_is_kept_whatever_stops_its_successor(self, model, monkeypatch, how):
        rename = os.rename

        def stopped(source, target):
            if Path(source).name == "new":
                raise how
            rename(source, target)

        monkeypatch.setattr(os, "rename", stopped)
        with pytest.raises((KeyboardInterrupt, ModelError)):
            save_model(model, card(version="2"), arrays(), overwrite=True)
        assert load_card(model)["version"] == "1" and os.listdir(model.parent) == [model.name]

    def test_what_can_not_be_put_back_is_not_removed(self, model, monkeypatch):
        rename = os.rename

        def away_only(source, target):
            if Path(source) != model:
                raise OSError
            rename(source, target)

        monkeypatch.setattr(os, "rename", away_only)
        with pytest.raises(ModelError):
            save_model(model, card(version="2"), arrays(), overwrite=True)
        (old,) = model.parent.glob(".*/old")
        assert load_card(old)["version"] == "1"

    def test_the_folder_is_for_whom_the_system_says(self, model):
        plain = model.parent / "plain"
        plain.mkdir()
        assert model.stat().st_mode == plain.stat().st_mode

    def test_no_place_exists(self):
        assert list_models() == []
        with pytest.raises(ModelError, match=r"no model 'heart'; no model is installed yet\."):
            find_model("heart")

    def test_found_by_name_and_by_path(self, model, tmp_path):
        save_model(tmp_path / "run" / "model", card(name="mine"), arrays())
        assert find_model("left-atrium") == find_model(model) == find_model(str(model)) == model
        assert find_model(tmp_path / "run" / "model") == tmp_path / "run" / "model"
        for name in ("mine", "", "..", str(tmp_path)):
            with pytest.raises(ModelError, match="there are left-atrium"):
                find_model(name)

    def test_the_users_model_goes_before_the_shipped_one(self, model, tmp_path):
        save_model(tmp_path / "shipped" / "left-atrium", CARD, arrays())
        assert find_model("left-atrium") == model
        delete_model("left-atrium")
        assert find_model("left-atrium") == tmp_path / "shipped" / "left-atrium"

    def test_names_are_told_apart_by_their_capitals_on_every_disk(self, model, monkeypatch):
        as_there = Path.is_file
        monkeypatch.setattr(Path, "is_file", lambda path: as_there(path.parent.with_name("left-atrium") / path.name))
        for act in (find_model, delete_model):
            with pytest.raises(ModelError, match="Left-Atrium"):
                act("Left-Atrium")
        assert find_model("left-atrium") == model

    @pytest.mark.parametrize("name", ["con", "AUX", "nul.v2", "Com1"])
    def test_names_of_devices_are_no_names(self, tmp_path, name):
        with pytest.raises(ModelError, match="no device such as con"):
            save_model(tmp_path / "m", card(name=name), arrays())

    def test_only_own_models_are_deleted(self, model, tmp_path):
        save_model(tmp_path / "shipped" / "atlas", card(name="atlas"), arrays())
        with pytest.raises(ModelError, match="came with SimCVD"):
            delete_model("atlas")
        for name in ("none", "", ".", "..", "../shipped/atlas", str(model)):
            with pytest.raises(ModelError, match="You have no model"):
                delete_model(name)
        delete_model("left-atrium")
        assert not model.exists() and (tmp_path / "shipped" / "atlas" / "card.json").is_file()

    def test_a_linked_model_is_unlinked_only(self, user, tmp_path):
        save_model(tmp_path / "elsewhere", CARD, arrays())
        user.mkdir()
        (user / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        delete_model("linked")
        assert not (user / "linked").is_symlink() and (tmp_path / "elsewhere" / "card.json").is_file()

    def test_the_users_folder_is_the_platforms(self, monkeypatch, tmp_path):
        monkeypatch.delenv("SIMCVD_MODELS")
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
        for platform, place in [
            ("linux", ".local/share"),
            ("darwin", "Library/Application Support"),
            ("win32", "Local"),
        ]:
            monkeypatch.setattr(sys, "platform", platform)
            assert model_folders()[0] == tmp_path / place / "simcvd" / "models"


def test_segments_come_in_the_order_of_their_values_whatever_the_card_says(tmp_path):
    first = CARD["segments"][0]
    several = [{**first, "value": value, "name": f"Part {value}"} for value in (2, 3, 1)]
    network = {**CARD["network"], "n_classes": 4}
    state = {name: t.numpy() for name, t in VNet(n_classes=4, n_filters=2).state_dict().items()}
    save_model(tmp_path / "model", card(segments=several, network=network), state)
    assert [segment["value"] for segment in read_json(tmp_path / "model" / "card.json")["segments"]] == [1, 2, 3]
    # and in cards that somebody else wrote
    write_json(tmp_path / "model" / "card.json", {**read_json(tmp_path / "model" / "card.json"), "segments": several})
    assert [segment["name"] for segment in load_card(tmp_path / "model")["segments"]] == ["Part 1", "Part 2", "Part 3"]


@pytest.mark.parametrize("dropout, rate", [(0.1, 0.1), (0, 0), (None, 0.5)])
def test_a_network_keeps_the_dropout_that_it_was_trained_with(tmp_path, dropout, rate):
    network = CARD["network"] if dropout is None else {**CARD["network"], "dropout": dropout}
    save_model(tmp_path / "model", card(network=network), arrays())
    built, _ = build_network(tmp_path / "model")
    assert built.bottleneck_dropout.p == built.head_dropout.p == rate


def test_shipped_models_of_a_source_tree_are_found(monkeypatch):
    monkeypatch.undo()
    shipped = model_folders()[1]
    assert shipped.is_dir()
    for folder in shipped.iterdir():
        if folder.is_dir():
            assert load_card(folder)["name"] == folder.name
            build_network(folder)


class TestZip:
    def test_there_and_back(self, model, tmp_path):
        export_model("left-atrium", tmp_path / "la.zip")
        with zipfile.ZipFile(tmp_path / "la.zip") as archive:
            assert archive.namelist() == ["left-atrium/card.json", "left-atrium/weights.npz"]
        before = parts(model)
        delete_model("left-atrium")
        assert import_model(tmp_path / "la.zip") == model
        assert parts(model) == before and [p.name for p in model.parent.iterdir()] == ["left-atrium"]

    def test_nothing_is_overwritten_unasked(self, model, tmp_path):
        export_model(model, tmp_path / "la.zip")
        with pytest.raises(ModelError, match=r"la\.zip exists already"):
            export_model(model, tmp_path / "la.zip")
        with pytest.raises(ModelError, match="left-atrium exists already; allow overwriting"):
            import_model(tmp_path / "la.zip")
        assert import_model(tmp_path / "la.zip", overwrite=True) == model

    def test_it_may_have_another_name_here(self, model, tmp_path):
        export_model(model, tmp_path / "la.zip")
        assert import_model(tmp_path / "la.zip", name="theirs") == model.with_name("theirs")
        assert load_card(model.with_name("theirs"))["name"] == "theirs"
        assert load_weights(model.with_name("theirs"), load_card(model.with_name("theirs")))
        with pytest.raises(ModelError, match="can't be called"):
            import_model(tmp_path / "la.zip", name="../theirs")

    def test_a_model_that_came_with_simcvd_is_not_hidden_unasked(self, model, tmp_path):
        export_model(model, tmp_path / "la.zip")
        delete_model("left-atrium")
        save_model(tmp_path / "shipped" / "left-atrium", CARD, arrays())
        with pytest.raises(ModelError, match=r"this one would hide it: give it another name \(--name\)"):
            import_model(tmp_path / "la.zip")
        assert import_model(tmp_path / "la.zip", overwrite=True) == model

    def test_a_damaged_model_is_not_exported(self, model, tmp_path):
        (model / "weights.npz").write_bytes(b"x")
        with pytest.raises(ModelError, match="damaged"):
            export_model(model, tmp_path / "la.zip")
        assert not (tmp_path / "la.zip").exists()

    def test_flat_and_compressed_zips_with_folder_entries(self, model, tmp_path):
        given_card, weights = parts(model)
        delete_model("left-atrium")
        assert import_model(zipped(tmp_path / "a.zip", [("card.json", given_card), ("weights.npz", weights)])) == model
        delete_model("left-atrium")
        with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("any-name") if sys.version_info >= (3, 11) else archive.writestr("any-name/", "")
            archive.writestr("any-name/card.json", given_card)
            archive.writestr("any-name/weights.npz", weights)
        assert import_model(tmp_path / "b.zip") == model

    @pytest.mark.parametrize(
        "name",
        [
            "/card.json",
            "/etc/card.json",
            "../card.json",
            "a/../card.json",
            "a/b/card.json",
            "..\\card.json",
            "C:/card.json",
            "./card.json",
            "a//card.json",
            "a/run.py",
            "__init__.py",
            "a/.hidden",
            "a/b/",
            "/",
        ],
    )
    def test_path_tricks_and_unknown_files(self, model, tmp_path, name):
        given_card, weights = parts(model)
        delete_model("left-atrium")
        path = zipped(tmp_path / "m.zip", [("a/card.json", given_card), ("a/weights.npz", weights), (name, b"")])
        self.refused(path, "no part of a model", tmp_path)

    def refused(self, path, sentence, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ModelError, match=sentence):
            import_model(path)
        assert sorted(tmp_path.rglob("*")) == before

    def test_links(self, model, tmp_path):
        given_card, _ = parts(model)
        delete_model("left-atrium")
        link = zipfile.ZipInfo("a/weights.npz")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        path = zipped(tmp_path / "m.zip", [("a/card.json", given_card), (link, b"/etc/passwd")])
        self.refused(path, "no part of a model", tmp_path)

    def test_incomplete_doubled_and_scattered(self, model, tmp_path):
        given_card, weights = parts(model)
        delete_model("left-atrium")
        self.refused(zipped(tmp_path / "1.zip", [("card.json", given_card)]), "holds no model", tmp_path)
        self.refused(zipped(tmp_path / "2.zip", []), "holds no model", tmp_path)
        scattered = [("card.json", given_card), ("a/weights.npz", weights)]
        self.refused(zipped(tmp_path / "3.zip", scattered), "in one folder", tmp_path)
        doubled = [("a/card.json", given_card), ("b/card.json", given_card), ("a/weights.npz", weights)]
        self.refused(zipped(tmp_path / "4.zip", doubled), "twice", tmp_path)

    def test_other_weights_and_bad_cards(self, model, tmp_path):
        given_card, weights = parts(model)
        delete_model("left-atrium")
        other = [("card.json", given_card), ("weights.npz", weights + b"x")]
        self.refused(zipped(tmp_path / "1.zip", other), r"The weights in \S+1\.zip are damaged", tmp_path)
        named = json.loads(given_card) | {"name": "../../evil"}
        bad = [("card.json", json.dumps(named)), ("weights.npz", weights)]
        self.refused(zipped(tmp_path / "2.zip", bad), r"The model card in \S+2\.zip has no usable name", tmp_path)

    def test_a_bomb(self, model, tmp_path, monkeypatch):
        given_card, _ = parts(model)
        delete_model("left-atrium")
        with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("card.json", given_card)
            archive.writestr("weights.npz", bytes(1 << 20))
        monkeypatch.setattr(models, "MAX_BYTES", 1 << 19)
        self.refused(tmp_path / "m.zip", "unpack to more than 0 MB", tmp_path)

    def test_a_bomb_that_lies_about_its_size(self, model, tmp_path):
        given_card, _ = parts(model)
        delete_model("left-atrium")
        with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("card.json", given_card)
            archive.writestr("weights.npz", bytes(1 << 20))
        content = (tmp_path / "m.zip").read_bytes()
        (tmp_path / "m.zip").write_bytes(content.replace((1 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")))
        self.refused(tmp_path / "m.zip", "can't be read as a zip file", tmp_path)

    def test_damaged_and_absent_zips(self, model, tmp_path):
        export_model(model, tmp_path / "la.zip")
        content = bytearray((tmp_path / "la.zip").read_bytes())
        delete_model("left-atrium")
        (tmp_path / "cut.zip").write_bytes(content[:-100])
        self.refused(tmp_path / "cut.zip", "cut.zip", tmp_path)
        content[len(content) // 2] ^= 255
        (tmp_path / "flipped.zip").write_bytes(content)
        self.refused(tmp_path / "flipped.zip", "can't be read as a zip file", tmp_path)
        self.refused(tmp_path / "none.zip", "can't be read as a zip file", tmp_path)

    def test_what_a_mac_adds_is_left_aside(self, model, tmp_path):
        given_card, weights = parts(model)
        delete_model("left-atrium")
        own = [("m/card.json", given_card), ("m/weights.npz", weights)]
        added = [("__MACOSX/m/._card.json", b"x"), ("m/.DS_Store", b"x"), ("__MACOSX/._m", b"x")]
        assert parts(import_model(zipped(tmp_path / "m.zip", own + added))) == (given_card, weights)

    def test_encrypted(self, model, tmp_path):
        export_model(model, tmp_path / "la.zip")
        delete_model("left-atrium")
        content = bytearray((tmp_path / "la.zip").read_bytes())
        content[content.rindex(b"PK\x01\x02") + 8] |= 1
        (tmp_path / "la.zip").write_bytes(content)
        self.refused(tmp_path / "la.zip", "encrypted", tmp_path)
