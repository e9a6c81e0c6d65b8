"""How a shell line becomes a program for guest-exec, shown by the real shell."""

import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.commands import shell

LINES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)


def run(program):
    done = subprocess.run([program.path, *program.args], env=program.env, capture_output=True, check=False)
    return done.stdout


def test_a_line_runs_in_a_session_of_its_own_with_the_same_pid():
    program = shell.linux_program("echo $$; cut -d' ' -f6 /proc/$$/stat", own_session=True)
    process = subprocess.Popen([program.path, *program.args], env=program.env, stdout=subprocess.PIPE)
    pid, session = process.communicate()[0].split()
    assert int(pid) == process.pid == int(session)


def test_a_guest_without_setsid_gets_the_plain_shell():
    assert shell.linux_program("true", own_session=False).path == "/bin/sh"


def test_the_environment_has_what_shells_expect():
    out = run(shell.linux_program('echo "$HOME $USER $LOGNAME $LANG"; echo $PATH', own_session=True)).split()
    assert out[:4] == [b"/root", b"root", b"root", b"C.UTF-8"]
    assert b"/usr/sbin" in out[4]


def test_windows_lines_go_to_cmd():
    assert shell.windows_program("ver & dir") == shell.Program("cmd.exe", ("/c", "ver & dir"), None)


def test_a_line_longer_than_an_argument_may_be_arrives_whole():
    text = "é😀'" * 21_000
    line = "printf %s " + "'" + text.replace("'", "'\\''") + "'"
    assert len(line.encode()) > 128 * 1024
    assert run(shell.linux_program(line, own_session=True)).decode() == text


@settings(max_examples=25, deadline=None)
@given(line=LINES)
def test_parts_join_to_the_line_again(line):
    assert "".join(shell._split(line)) == line


@settings(deadline=None)
@given(line=st.text(alphabet="aé😀", min_size=1, max_size=40), limit=st.integers(4, 12))
def test_no_part_is_longer_than_the_limit_or_cuts_a_character(line, limit):
    shell_limit, shell._ARGUMENT_LIMIT_BYTES = shell._ARGUMENT_LIMIT_BYTES, limit
    try:
        parts = shell._split(line)
    finally:
        shell._ARGUMENT_LIMIT_BYTES = shell_limit
    assert "".join(parts) == line
    assert all(len(part.encode()) <= limit for part in parts)
