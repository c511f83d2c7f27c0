"""The list of cases and what comes of it: clicks, files and roles, names of structures and of models."""

import json
import shutil
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import slicer
from lib_scenes import ball, brightBall
from test_segment_module import addScan, wait
from test_train_module import PLACES, TrainPanelTest, addOutlined

from simcvd.errors import SimCVDError
from simcvd.images import write_volume
from SimCVDLib import cases, jobs, nodes, outcome, runlist, runs

CARD = {"name": "left-atrium", "segments": [{"value": 1, "name": "Left atrium"}]}
TWO = {"name": "heart", "segments": [{"value": 1, "name": "LV"}, {"value": 2, "name": "RV"}]}


def outlined(table, *names):
    """A case with an outline of these structures."""
    volume = brightBall()
    node = nodes.newSegmentation(volume, [], "Outline")
    masks = [ball(radius=9.0), ball() & ~ball(radius=9.0)]
    for name, mask in zip(names, masks, strict=False):
        nodes.writeSegment(node, node.GetSegmentation().AddEmptySegment("", name, (1.0, 0.0, 0.0)), mask, volume)
    return table.addLabelledCase(volume, node)


# --- the list


def test_a_new_structure_is_not_called_what_the_start_model_knows():
    for name, told in (("Right ventricle", True), ("left atrium", False), ("Segment_1", False), ("Segment 2", False)):
        table = cases.CaseTable()
        outlined(table, name)
        about = table.otherStructure(CARD)
        assert bool(about) == told, name
        if told:
            assert [segment["name"] for segment in about["segments"]] == ["Right ventricle"]
            assert "Right ventricle" in about["description"]


def test_structures_of_other_names_are_said_with_what_they_are_taken_for():
    table = cases.CaseTable()
    outlined(table, "Core", "Wall")
    (said,) = [sentence for sentence in table.problems(TWO) if "other names" in sentence]
    assert "Core is taken for LV, Wall is taken for RV" in said
    same = {**TWO, "segments": [{"value": 1, "name": "Wall"}, {"value": 2, "name": "Core"}]}
    assert not [sentence for sentence in table.problems(same) if "other names" in sentence]


def test_values_of_label_files_are_said_beside_named_structures(tmp_path):
    table = cases.CaseTable()
    outlined(table, "Core", "Wall")
    assert not [sentence for sentence in table.problems() if "label files" in sentence]
    (tmp_path / "a").mkdir()
    geometry = nodes.geometryOf(brightBall())
    for name in ("image", "label"):
        write_volume(tmp_path / "a" / f"{name}.nrrd", ball().astype(np.uint8), geometry)
    table.addFolder(tmp_path)
    (said,) = [sentence for sentence in table.problems() if "label files" in sentence]
    assert "1 is taken for Core, 2 is taken for Wall" in said


def test_many_cases_change_their_role_at_once():
    told = []
    table = cases.CaseTable(lambda: told.append(1))
    rows = [outlined(table, "Structure") for _ in range(3)]
    bare = table.addVolumes([brightBall()])
    told.clear()
    table.setRole(rows, cases.VALIDATION)
    assert told == [1] and table.count(cases.VALIDATION) == 3
    with pytest.raises(SimCVDError, match="has no outline"):
        table.setRole([*rows, *bare], cases.LABELLED)
    assert table.count(cases.LABELLED) == 3 and bare[0].role == cases.UNLABELLED
    told.clear()
    table.remove(rows)
    assert told == [1] and table.rows == bare


def test_roles_of_a_list_that_are_not_known_here_are_left_out(tmp_path):
    geometry = nodes.geometryOf(brightBall())
    write_volume(tmp_path / "i.nrrd", ball().astype(np.float32), geometry)
    write_volume(tmp_path / "l.nrrd", ball().astype(np.uint8), geometry)
    wanted = [("test", "l.nrrd"), ("labelled", None), ("labelled", "l.nrrd")]
    listed = []
    for n, (role, label) in enumerate(wanted):
        (tmp_path / f"i{n}.nrrd").write_bytes((tmp_path / "i.nrrd").read_bytes())
        listed.append({"id": f"c{n}", "image": f"i{n}.nrrd", "label": label, "role": role})
    (tmp_path / "cases.json").write_text(json.dumps({"format": 1, "cases": listed}))
    table = cases.CaseTable()
    rows = table.addCaseList(tmp_path / "cases.json")
    assert [row.role for row in rows] == [cases.OUT, cases.UNLABELLED, cases.LABELLED]


# --- runs and their models


def test_what_can_not_be_reached_is_no_run_and_stops_nothing(tmp_path, monkeypatch):
    stale = mock.Mock(side_effect=OSError(116, "Stale file handle"))
    monkeypatch.setattr(type(tmp_path), "is_file", stale)
    assert not runs._isRun(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(type(tmp_path), "exists", stale)
    with pytest.raises(SimCVDError, match="can't be reached"):
        runlist.freeFolder("a", tmp_path)


def test_a_run_that_was_told_to_end_with_its_model_does_so_at_quit(tmp_path):
    told = []
    for word in ("finish", None):
        run = mock.Mock(staysAfterQuit=False, wish=word, stop=lambda word=word: told.append(word))
        process = mock.Mock(poll=lambda: None)
        with mock.patch.object(runs, "Run", return_value=run), mock.patch.dict(runs._started, {tmp_path: process}):
            runs.stopAtQuit()
    assert told == [None]
    broken = mock.Mock(side_effect=OSError("gone"))
    with mock.patch.object(runs, "Run", broken), mock.patch.dict(runs._started, {tmp_path: process}):
        runs.stopAtQuit()
    broken.assert_called_once()


def test_models_of_one_name_are_kept_beside_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMCVD_MODELS", str(tmp_path / "models"))
    program, environment = jobs.pythonCommand()
    script = Path(__file__).with_name("small_model.py")
    subprocess.run([program, script, tmp_path / "0"], env=environment, check=True)
    card = json.loads((tmp_path / "0" / "card.json").read_text())
    for n in (1, 2):
        shutil.copytree(tmp_path / "0", tmp_path / str(n))
        (tmp_path / str(n) / "card.json").write_text(json.dumps({**card, "sha256": 64 * str(n)}))
    name = card["name"]
    installed = [outcome.install(tmp_path / str(n)) for n in (0, 1, 2, 1, 0)]
    assert installed == [name, f"{name}-2", f"{name}-3", f"{name}-2", name]
    for made in set(installed):
        assert json.loads((tmp_path / "models" / made / "card.json").read_text())["name"] == made


# --- the panel


class TrainListTest(TrainPanelTest):
    def test_a_click_on_a_case_changes_nothing_about_it(self):
        addOutlined("one", PLACES[0], ("Core", "Wall"))
        addOutlined("two", PLACES[1], ("Core", "Wall"))
        self.ui.addSceneButton.click()
        self.chooseCase("one")
        self.ui.outlineSegmentComboBox.currentIndex = 1
        self.chooseCase("two")
        self.ui.roleComboBox.currentIndex = 1
        self.assertEqual(self.roles()["two"], "Unlabelled")
        for name in ("one", "two", "one"):
            self.chooseCase(name)
        self.assertEqual(self.roles()["two"], "Unlabelled")
        table = self.widget.logic.table
        self.assertEqual([len(row.segments()) for row in table.rows], [1, 2])

    def test_a_segment_that_is_drawn_later_belongs_to_all_segments(self):
        _volume, node = addOutlined("one", PLACES[0], ("Core", "Wall"))
        addScan("two", PLACES[1])
        self.ui.addSceneButton.click()
        self.chooseCase("one")
        self.ui.outlineSegmentComboBox.currentIndex = 1
        self.ui.outlineSegmentComboBox.currentIndex = 0
        node.GetSegmentation().AddEmptySegment("", "Third", (1.0, 0.0, 0.0))
        (row, _other) = self.widget.logic.table.rows
        self.assertEqual(len(row.segments()), 3)

    def test_an_estimate_is_taken_back_when_anything_it_was_asked_for_changes(self):
        self.addCases()
        for change in (
            lambda: setattr(self.ui.settingsLineEdit, "text", "iterations=20"),
            lambda: setattr(self.ui.durationComboBox, "currentIndex", 1),
            lambda: self.widget.logic.table.addVolumes([addScan("more")]),
        ):
            self.widget._say("estimate", "so long")
            self.widget._estimated = self.widget._question()
            self.widget.updateGui()
            self.assertEqual(self.ui.estimateLabel.text, "so long")
            self.representation.exit()
            self.representation.enter()
            self.assertEqual(self.ui.estimateLabel.text, "so long")
            change()
            self.assertEqual(self.ui.estimateLabel.text, "")
        self.ui.settingsLineEdit.text = "foo"
        self.ui.estimateButton.click()
        self.assertIn("foo", self.ui.estimateLabel.text)
        self.ui.settingsLineEdit.text = ""
        self.assertEqual(self.ui.estimateLabel.text, "")

    def test_a_look_at_a_case_on_disk_leaves_its_role(self):
        self.addCases(outlined=3, plain=0, validation=0)
        self.moveCasesToDisk()
        self.chooseCase("case-002")
        self.ui.roleComboBox.currentIndex = 1
        row = self.widget.logic.table.row("case-002")
        self.widget.logic.openCase(row)
        self.assertEqual((row.role, row.hasLabel), ("unlabelled", True))

    def test_an_empty_label_on_disk_is_opened_to_be_drawn(self):
        folder = self.place / "empty"
        (folder / "a").mkdir(parents=True)
        volume = addScan("scan")
        geometry = nodes.geometryOf(volume)
        write_volume(folder / "a" / "image.nrrd", slicer.util.arrayFromVolume(volume), geometry)
        write_volume(folder / "a" / "label.nrrd", np.zeros(nodes.shapeOf(volume), np.uint8), geometry)
        (row,) = self.widget.logic.table.addFolder(folder)
        self.widget.logic.openCase(row)
        self.assertTrue(row.hasLabel)
        self.assertEqual(len(row.segments()), 1)

    def test_files_are_not_read_again_at_each_visit(self):
        self.addCases(outlined=2, plain=0, validation=0)
        self.moveCasesToDisk()
        wait(lambda: not self.widget._list.isLooking)
        self.representation.exit()
        with mock.patch.object(self.widget._looks, "ask") as asked:
            self.representation.enter()
            wait(lambda: not self.widget._list.isLooking)
        asked.assert_not_called()

    def test_a_folder_for_runs_that_is_gone_is_said(self):
        self.addCases()
        wait(lambda: not self.widget._list.isLooking)
        with mock.patch("shutil.disk_usage", side_effect=FileNotFoundError):
            self.widget.updateGui()
        self.assertIn("can't be reached", self.ui.diskLabel.text)
