import os

import pytest

from simcvd import files
from simcvd.events import EventLog, read_events
from simcvd.files import atomic_path, read_json, sha256, write_json


def test_atomic_path_replaces_only_on_success(tmp_path):
    target = tmp_path / "a.nii.gz"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with atomic_path(target) as temporary:
        assert temporary.name.endswith("a.nii.gz") and temporary.parent == tmp_path
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.nii.gz"]


def test_atomic_path_makes_the_folder(tmp_path):
    with atomic_path(tmp_path / "x" / "y.txt") as temporary:
        temporary.write_text("1")
    assert (tmp_path / "x" / "y.txt").read_text() == "1"


def test_json_round_trip_and_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Vorhof links é", "n": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"name": "Vorhof links é", "n": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json")["n"] == [1, 2.5, None]


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_events_are_read_on_from_where_one_stopped(tmp_path):
    path = tmp_path / "events.jsonl"
    assert read_events(path) == ([], 0)
    log = EventLog(path)
    log.write("start", of=3)
    first, offset = read_events(path)
    assert first[0]["event"] == "start" and first[0]["of"] == 3 and first[0]["time"] > 0
    assert read_events(path, offset) == ([], offset)
    log.write("step", iteration=1, loss={"total": 0.5})
    second, _ = read_events(path, offset)
    assert [e["event"] for e in second] == ["step"]


def test_a_half_line_of_a_killed_process_spoils_no_other(tmp_path):
    path = tmp_path / "events.jsonl"
    EventLog(path).write("start")
    with open(path, "ab") as f:
        f.write(b'{"event": "st')
    events, offset = read_events(path)
    assert [e["event"] for e in events] == ["start"]
    EventLog(path).write("resumed")
    events, _ = read_events(path, offset)
    assert [e["event"] for e in events] == ["resumed"]


def test_an_event_of_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError):
        EventLog(tmp_path / "events.jsonl").write("step", loss=float("nan"))


class InUseError(PermissionError):
    """As Windows raises it for a file that somebody has open."""

    winerror = 32


def test_a_file_that_is_in_use_for_a_moment_is_waited_for(monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0))
    refusals = [InUseError(), InUseError()]

    def act():
        if refusals:
            raise refusals.pop()

    files.patiently(act)
    assert not refusals


def test_a_file_that_stays_in_use_or_is_forbidden_is_told(monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0))
    for error, tries in ((InUseError(), 3), (PermissionError(13, "no"), 1)):
        calls = []

        def act(error=error, calls=calls):
            calls.append(1)
            raise error

        with pytest.raises(PermissionError):
            files.patiently(act)
        assert len(calls) == tries


def test_on_windows_a_file_that_can_not_be_opened_for_a_moment_is_waited_for(monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(files, "ON_WINDOWS", True)
    refusals = [PermissionError(13, "denied"), PermissionError(13, "denied")]  # open() gives no number of Windows

    def act():
        if refusals:
            raise refusals.pop()
        return "opened"

    assert files.patiently(act) == "opened"


@pytest.mark.skipif(os.name == "nt", reason="folders know no such rights there")
def test_a_file_and_what_holds_it_are_for_whom_the_system_says(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "folder" / "a.json") as temporary:
            temporary.write_text("{}")
    finally:
        os.umask(before)
    assert (tmp_path / "folder" / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_folder_in_which_nothing_may_be_written_is_told_at_once(tmp_path, monkeypatch):
    tried = []

    def refuse(path, *_, **__):
        tried.append(path)
        raise PermissionError(13, "denied")

    monkeypatch.setattr(files.Path, "touch", refuse)
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a.json"):
        pass
    assert len(tried) == 1


def test_a_folder_that_holds_what_desktops_leave_is_empty(tmp_path):
    assert files.is_empty(tmp_path)
    for name in (".DS_Store", "desktop.ini", "Thumbs.db"):
        (tmp_path / name).touch()
    assert files.is_empty(tmp_path)
    (tmp_path / ".hidden").touch()
    assert not files.is_empty(tmp_path)


def test_the_temporary_name_is_plain_and_keeps_its_ending(tmp_path):
    with files.atomic_path(tmp_path / "vorhöfe.心.nii.gz") as temporary:
        assert temporary.name.isascii() and temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["vorhöfe.心.nii.gz"]
