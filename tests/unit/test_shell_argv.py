"""How a program with arguments becomes one for guest-exec, shown by the real programs."""

import subprocess

from workers.commands import shell

WORDS = ["$HOME", "a b", "", "*", "; id", "'\"\\", "é😀", "--", "-c"]


def run(program: shell.Program) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([program.path, *program.args], env=dict(program.env or {}), capture_output=True, check=False)


def test_arguments_arrive_as_they_are():
    expected = "".join(f"<{word}>" for word in WORDS).encode()
    for own_session in (True, False):
        for cwd in (None, "/tmp"):
            program = shell.linux_argv(["printf", "<%s>", *WORDS], own_session=own_session, cwd=cwd)
            assert run(program).stdout == expected


def test_it_leads_a_session_with_its_own_pid_and_no_shell_stays():
    for cwd in (None, "/tmp"):
        program = shell.linux_argv(["cat", "/proc/self/stat"], own_session=True, cwd=cwd)
        process = subprocess.Popen([program.path, *program.args], env=program.env, stdout=subprocess.PIPE)
        fields = process.communicate()[0].split()
        assert int(fields[0]) == process.pid == int(fields[5])


def test_without_a_directory_there_is_no_shell():
    assert shell.linux_argv(["a", "b"], own_session=False).path == "a"
    assert shell.linux_argv(["a", "b"], own_session=True).args == ("a", "b")


def test_environment_is_the_same_as_a_lines():
    assert shell.linux_argv(["a"], own_session=True, env={"X": "1"}).env == {**shell.ENVIRONMENT, "X": "1"}


def test_windows_gets_it_as_it_is():
    assert shell.windows_argv(["cmd.exe", "/c", "ver"]) == shell.Program("cmd.exe", ("/c", "ver"), None)
