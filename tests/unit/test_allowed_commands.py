"""What a key that is limited to certain commands may run."""

import pytest

from app.allowed_commands import insist_on_allowed, is_pattern
from app.core.errors import KeyLimitedError
from app.core.records import CommandRequest

PATTERNS = (
    "/opt/deploy.sh web-*",
    "cd /srv/app && git pull",
    "systemctl restart app",
    "tar xf /srv/in/*.tar -C /srv",
    "ls -*",
)


def may_run(request: CommandRequest) -> bool:
    try:
        insist_on_allowed(PATTERNS, request)
    except KeyLimitedError:
        return False
    return True


@pytest.mark.parametrize(
    "line",
    [
        "/opt/deploy.sh web-1",
        "  /opt/deploy.sh\tweb-eu.1 ",
        "/opt/deploy.sh 'web-1'",
        '/opt/deploy.sh "web-with space"',
        "/opt/deploy.sh web-",
        "cd /srv/app && git pull",
        "systemctl restart app",
        "tar xf /srv/in/a.tar -C /srv",
        "ls -la",
    ],
)
def test_what_fits_a_pattern_may_run(line: str):
    assert may_run(CommandRequest(line=line))


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "/opt/deploy.sh",
        "/opt/deploy.sh db-1",
        "/opt/deploy.sh web-1 web-2",
        "/opt/deploy.sh web-1; id",
        "/opt/deploy.sh web-1 & id",
        "/opt/deploy.sh web-1 | sh",
        "/opt/deploy.sh web-1\nid",
        "/opt/deploy.sh web-1\rid",
        "/opt/deploy.sh web-$(id)",
        "/opt/deploy.sh web-`id`",
        "/opt/deploy.sh web-$HOME",
        '/opt/deploy.sh "web-$(id)"',
        '/opt/deploy.sh "web-`id`"',
        "/opt/deploy.sh web-1 > /etc/passwd",
        "/opt/deploy.sh web-1 2>&1",
        "/opt/deploy.sh web-1 #",
        "/opt/deploy.sh web-\\\nid",
        "/opt/deploy.sh web-{1,2}",
        "/opt/deploy.sh web-*",
        "/opt/deploy.sh web-?",
        "/opt/deploy.sh web-%PATH%",
        "/opt/deploy.sh 'web-1' & calc",
        "/opt/deploy.sh 'web-1 & calc'",
        "/opt/deploy.sh web-^1",
        "/opt/deploy.sh web-1!",
        "/opt/deploy.sh 'web-1",
        "LD_PRELOAD=/tmp/x /opt/deploy.sh web-1",
        "PATH+=/tmp /opt/deploy.sh web-1",
        "sudo /opt/deploy.sh web-1",
        "/opt//deploy.sh web-1",
        "/opt/deploy.sh web-/../../etc",
        "/opt/deploy.sh 'web-/..'",
        "cd /srv/app && git pull && id",
        "cd /srv/app  && git pull",
        "tar xf /srv/in/../../etc/x.tar -C /srv",
        "tar xf /srv/in/a.tar -C /",
        "ls /",
        "ls",
    ],
)
def test_nothing_else_may(line: str):
    if line == "/opt/deploy.sh web-*":  # the very text of the pattern
        assert may_run(CommandRequest(line=line))
    else:
        assert not may_run(CommandRequest(line=line))


def test_an_argv_is_words_already():
    assert may_run(CommandRequest(argv=("/opt/deploy.sh", "web-$(id); id")))
    assert not may_run(CommandRequest(argv=("/opt/deploy.sh", "web-/../x")))
    assert not may_run(CommandRequest(argv=("/opt/deploy.sh", "web-1", "--now")))
    assert not may_run(CommandRequest(argv=("cd /srv/app && git pull",)))
    assert not may_run(CommandRequest(argv=()))


@pytest.mark.parametrize("word", ["-v", "--output=/etc/passwd", "/etc/passwd"])
def test_a_wildcard_that_begins_a_word_is_no_option(word: str):
    with pytest.raises(KeyLimitedError):
        insist_on_allowed(("cat *",), CommandRequest(line=f"cat {word}"))
    insist_on_allowed((f"cat {word[0]}*",), CommandRequest(line=f"cat {word}"))


def test_variables_and_directories_make_another_command_of_it():
    line = "systemctl restart app"
    assert not may_run(CommandRequest(line=line, env={"PATH": "/tmp"}))
    assert not may_run(CommandRequest(line=line, cwd="/tmp"))
    assert not may_run(CommandRequest(line=line, cwd=""))
    assert may_run(CommandRequest(line=line, env={}, stdin="data"))


def test_brackets_and_question_marks_of_a_pattern_are_themselves():
    for word in ("[ab]", "a?"):
        insist_on_allowed((f"cat {word}*",), CommandRequest(argv=("cat", f"{word}1")))
        with pytest.raises(KeyLimitedError):
            insist_on_allowed((f"cat {word}*",), CommandRequest(argv=("cat", "ab")))


def test_a_pattern_with_an_open_quote_fits_only_itself():
    insist_on_allowed(("echo 'a",), CommandRequest(line="echo 'a"))
    with pytest.raises(KeyLimitedError):
        insist_on_allowed(("echo 'a",), CommandRequest(line="echo a"))


def test_what_can_be_a_pattern():
    assert is_pattern("/opt/deploy.sh *")
    assert not any(is_pattern(text) for text in ("", "  ", "a\nb", "a\0"))
