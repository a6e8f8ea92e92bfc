"""Scans of one patient stay together: by DICOM, or by what the user types for scans that do not say whose they are."""

from __future__ import annotations

from pathlib import Path

from correcting_world import add_volume, predicted, save, tick

from TransferSegLib.corrections.project import Project

OWN = "a patient of its own"


def corrected(host, ui, tmp_path: Path, seed: int, patient: str = "") -> None:
    """Correct and save another scan, of a patient that is typed."""
    (tmp_path / str(seed)).mkdir()
    predicted(ui, add_volume(f"CT {seed}", seed), tmp_path / str(seed))
    tick(ui, "brainstem")
    assert ui.patientLineEdit.text == "" and ui.patientLineEdit.placeholderText == OWN
    ui.patientLineEdit.text = patient
    assert "is saved." in save(host)


def test_scans_with_the_same_entry_are_one_patient_and_others_are_patients_of_their_own(host, ui, folder, tmp_path):
    for seed, patient in ((1, "Smith 7"), (2, ""), (3, " Smith 7 "), (4, "")):
        corrected(host, ui, tmp_path, seed, patient)
    groups = {revision.case.id: revision.case.group for revision in Project(folder).state().current}
    assert groups["case-0001"] == groups["case-0003"] != groups["case-0002"]
    assert len(set(groups.values())) == 3
    shown = [(ui.caseTable.item(row, 0).text(), ui.caseTable.item(row, 0).toolTip()) for row in range(4)]
    for (case, details), (name, number) in zip(
        shown, [("CT 1, patient 1", 1), ("CT 2", 2), ("CT 3, patient 1", 1), ("CT 4", 3)], strict=True
    ):
        assert case == name and f"\nPatient {number} of this project\n" in details
    written = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    assert not any(b"Smith" in content for content in written), "only a pseudonym is kept"


def test_a_new_revision_keeps_its_patient_and_the_next_scan_begins_with_none(host, ui, folder, tmp_path):
    corrected(host, ui, tmp_path, 1, "A")
    assert ui.patientLineEdit.placeholderText == "as saved before"
    before = Project(folder).state().current[0].case.group
    ui.patientLineEdit.text = ""
    assert "revision 2, is saved." in save(host)
    assert Project(folder).state().current[0].case.group == before
    ui.patientLineEdit.text = "A"
    ui.inputVolumeSelector.setCurrentNode(add_volume("other", 9))
    assert ui.patientLineEdit.text == ""


def test_the_patient_of_a_dicom_scan_is_known_and_can_be_typed_for_another_scan(host, ui, folder, tmp_path):
    import slicer

    volume = add_volume("CT", 1)
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    hierarchy.SetItemAttribute(patient, constants.GetDICOMPatientIDAttributeName(), "ID-42")
    study = hierarchy.CreateStudyItem(patient, "Study")
    hierarchy.CreateItem(study, volume)
    predicted(ui, volume, tmp_path)
    tick(ui, "brainstem")
    assert ui.patientLineEdit.placeholderText == "as in DICOM"
    groups = []
    for typed in ("", "someone else", "", "ID-42"):  # empty, the field is shown as "as saved before" from the second on
        ui.patientLineEdit.text = typed
        assert "is saved." in save(host)
        groups.append(Project(folder).state().current[0].case.group)
    assert groups[0] == groups[3] != groups[1] == groups[2]
    corrected(host, ui, tmp_path, 2, "ID-42")
    first, second = Project(folder).state().current
    assert first.case.group == second.case.group


def test_the_console_takes_a_patient(host, ui, folder, tmp_path):
    import slicer

    logic = slicer.util.getModuleLogic("TransferSeg")
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        node, _labels = predicted(ui, add_volume(f"CT {seed}", seed), tmp_path / str(seed))
        volume = ui.inputVolumeSelector.currentNode()
        logic.saveCorrection(volume, node, ["brainstem"], project=folder, patient="B")
    assert len({revision.case.group for revision in Project(folder).state().current}) == 1
