"""Settings: read once, wrong ones named all together, written down from the same declarations."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from app.core.env import example, load, variable
from app.core.errors import SettingsError
from app.settings import WebSettings


@dataclass(frozen=True)
class Sample:
    port: int = variable("PORT", "8000", "Port to listen on.", minimum=1)
    pause_s: float = variable("PAUSE_S", "0.5", "Pause.", unit="seconds", minimum=0.1)
    folder: Path = variable("FOLDER", "var", "Where things are.")
    files: tuple[Path, ...] = variable("FILES", "", "Some files.")
    names: tuple[str, ...] = variable("NAMES", "a,b", "Some names.")


def test_defaults_are_read_like_values():
    assert load(Sample, {}) == Sample(8000, 0.5, Path("var"), (), ("a", "b"))


def test_environment_wins_and_empty_counts_as_unset():
    environ = {"PORT": "1", "PAUSE_S": "2", "FOLDER": "", "FILES": "/a:/b c:", "NAMES": "x", "OTHER": "y"}
    assert load(Sample, environ) == Sample(1, 2.0, Path("var"), (Path("/a"), Path("/b c")), ("x",))


def test_every_wrong_variable_is_named():
    with pytest.raises(SettingsError) as caught:
        load(Sample, {"PORT": "many", "PAUSE_S": "0", "FOLDER": "x"})
    assert "PORT='many'" in str(caught.value)
    assert "PAUSE_S='0': must be at least 0.1" in str(caught.value)
    assert "FOLDER" not in str(caught.value)


def test_example_says_meaning_unit_default_and_readers_once():
    text = example({"web": Sample, "worker": Sample})
    assert "# Pause. (read by web and worker, in seconds)\nPAUSE_S=0.5\n" in text
    assert text.count("PORT=8000") == 1


def test_example_is_the_defaults():
    lines = [line for line in example({"web": WebSettings}).splitlines() if line and not line.startswith("#")]
    assert load(WebSettings, dict(line.split("=", 1) for line in lines)) == load(WebSettings, {})


def test_web_settings_have_the_documented_defaults():
    settings = load(WebSettings, {})
    assert (settings.host, settings.port, settings.exec_ttl_s) == ("127.0.0.1", 8000, 86400)
    assert settings.guard_rules_files == ()
