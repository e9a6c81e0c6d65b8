from collections.abc import Callable
from pathlib import Path

from lab.accel import Accelerator, choose
from lab.guest import LabGuest

GUEST = LabGuest(Path("/k"), Path("/i"), "")


def probe(asked: list[str], *, answer: bool) -> Callable[[LabGuest, Accelerator], bool]:
    def boots(guest: LabGuest, accelerator: Accelerator) -> bool:
        assert guest is GUEST
        asked.append(accelerator)
        return answer

    return boots


def device(tmp_path: Path) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    return path


def test_a_host_without_the_device_is_not_probed(tmp_path: Path) -> None:
    asked: list[str] = []
    assert choose(tmp_path, GUEST, device=tmp_path / "kvm", boots=probe(asked, answer=True)) == "tcg"
    assert asked == []


def test_kvm_is_used_where_a_guest_boots_and_probed_once(tmp_path: Path) -> None:
    asked: list[str] = []
    answers = {choose(tmp_path, GUEST, device=device(tmp_path), boots=probe(asked, answer=True)) for _ in range(3)}
    assert answers == {"kvm"}
    assert asked == ["kvm"]


def test_a_device_that_opens_and_boots_nothing_is_not_used(tmp_path: Path) -> None:
    asked: list[str] = []
    answers = {choose(tmp_path, GUEST, device=device(tmp_path), boots=probe(asked, answer=False)) for _ in range(3)}
    assert answers == {"tcg"}
    assert asked == ["kvm"]
