"""The guard blocks every catastrophic command of one list, lets every look-alike of the other pass, and never fails."""

import gc
import re
import shlex
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import CommandBlockedError
from app.guard import BUILT_IN_RULES, Guard
from app.guard_rules import GuardRulesError

LONGEST_COMMAND_CHARS = 65_536
GUARD = Guard.from_files([])


def read_corpus(name: str) -> dict[str, list[str]]:
    r"""Read one command a line, by category (``## --- x``); ``\n`` and ``\t`` as usual, ``\\`` a backslash."""
    by_category: dict[str, list[str]] = {}
    for line in (Path(__file__).with_name(name)).read_text(encoding="utf-8").splitlines():
        if line.startswith("## --- "):
            commands = by_category.setdefault(line.removeprefix("## --- "), [])
        elif line and not line.startswith("##"):
            commands.append(re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), line))
    return by_category


BLOCKED_BY_CATEGORY = read_corpus("guard_blocked.txt")
ALLOWED_BY_CATEGORY = read_corpus("guard_allowed.txt")
BLOCKED = [command for commands in BLOCKED_BY_CATEGORY.values() for command in commands]
ALLOWED = [command for commands in ALLOWED_BY_CATEGORY.values() for command in commands]
MISSED = [command for commands in read_corpus("guard_missed.txt").values() for command in commands]
LEAST_COMMANDS = 60


def blocking_rule(check: Callable[[], None]) -> str | None:
    try:
        check()
    except CommandBlockedError as exc:
        return exc.rule
    return None


def rule_for(line: str, *, guard: Guard = GUARD, cwd: str = "/") -> str | None:
    return blocking_rule(lambda: guard.check_line(line, cwd=cwd))


# --- the two lists


@pytest.mark.parametrize("command", BLOCKED)
def test_catastrophic_command_is_blocked(command: str) -> None:
    assert rule_for(command) is not None


@pytest.mark.parametrize("command", ALLOWED)
def test_harmless_look_alike_is_allowed(command: str) -> None:
    assert rule_for(command) is None


@pytest.mark.parametrize("command", MISSED)
def test_what_is_known_to_get_through_still_does(command: str) -> None:
    """Whoever teaches the guard one of these moves it to the list of what is blocked."""
    assert rule_for(command) is None


def test_both_rates_are_100_percent(capsys: pytest.CaptureFixture[str]) -> None:
    blocked = {category: sum(map(is_blocked, lines)) for category, lines in BLOCKED_BY_CATEGORY.items()}
    allowed = {category: len(lines) - sum(map(is_blocked, lines)) for category, lines in ALLOWED_BY_CATEGORY.items()}
    with capsys.disabled():
        sys.stdout.write(
            f"\nguard: blocked {sum(blocked.values())} of {len(BLOCKED)} catastrophic spellings,"
            f" allowed {sum(allowed.values())} of {len(ALLOWED)} look-alikes;"
            f" {len(MISSED)} more spellings are known to get through\n"
        )
        sys.stdout.writelines(rates("blocked", blocked, BLOCKED_BY_CATEGORY))
        sys.stdout.writelines(rates("allowed", allowed, ALLOWED_BY_CATEGORY))
    assert len(set(BLOCKED)) == len(BLOCKED) == sum(blocked.values()) >= LEAST_COMMANDS
    assert len(set(ALLOWED)) == len(ALLOWED) == sum(allowed.values()) >= LEAST_COMMANDS


def is_blocked(command: str) -> bool:
    return rule_for(command) is not None


def rates(word: str, right: dict[str, int], by_category: dict[str, list[str]]) -> list[str]:
    return [f"  {word:8} {right[name]:4} of {len(lines):4}  {name}\n" for name, lines in by_category.items()]


def test_every_built_in_rule_blocks_something_on_the_list() -> None:
    written = {rule["name"] for rule in tomllib.loads(BUILT_IN_RULES.read_text(encoding="utf-8"))["rule"]}
    assert {rule_for(command) for command in BLOCKED} == written


# --- spellings

CATASTROPHES = {
    "remove-system": ["rm", "-rf", "/"],
    "make-file-system-on-disk": ["mkfs.ext4", "-F", "/dev/sda"],
    "dd-to-disk": ["dd", "if=/dev/zero", "of=/dev/vda"],
    "change-owner-or-mode-of-system": ["chmod", "-R", "777", "/etc"],
    "kill-everything": ["kill", "-9", "-1"],
}
HARMLESS = [["rm", "-rf", "/tmp/build"], ["dd", "if=/dev/sda", "of=/root/img"], ["kill", "-9", "1234"]]
AROUND = [
    "{}",
    "true; {}",
    "true&&{}",
    "false || {} &",
    "echo one\n{}\necho two",
    "( {} )",
    "{{ {}; }}",
    "if true; then {}; fi",
    "x=$({})",
    'echo "`{}`"',
    "sudo -n {}",
    "env A=b nohup {} > /dev/null 2>&1",
    "cat <<E\ntext\nE\n{}",
]


@st.composite
def noisy(draw: st.DrawFn, argv: Sequence[str]) -> str:
    """Write an argv as a shell line with quotes and escapes wherever a shell allows them."""
    noise = st.sampled_from(["{}", "{}", "'{}'", '"{}"', "\\{}", "''{}", '{}""', "\\\n{}"])
    blank = st.sampled_from([" ", "  ", "\t", " \\\n"])
    words = ["".join(draw(noise).format(character) for character in word) for word in argv]
    line = words[0] + "".join(draw(blank) + word for word in words[1:])
    return draw(st.sampled_from(AROUND)).format(line)


@given(st.sampled_from(sorted(CATASTROPHES)), st.data())
def test_quotes_escapes_and_surroundings_change_nothing(rule: str, data: st.DataObject) -> None:
    line = data.draw(noisy(CATASTROPHES[rule]))
    if "`" in line:
        line = line.replace("\\\n", "")  # a backslash within backticks has rules of its own
    assert rule_for(line) == rule


@given(st.sampled_from(HARMLESS), st.data())
def test_quotes_escapes_and_surroundings_make_nothing_worse(argv: list[str], data: st.DataObject) -> None:
    assert rule_for(data.draw(noisy(argv))) is None


@given(st.sampled_from(sorted(CATASTROPHES)), st.integers(min_value=1, max_value=6))
def test_shells_within_shells_are_read(rule: str, depth: int) -> None:
    line = shlex.join(CATASTROPHES[rule])
    for _ in range(depth):
        line = shlex.join(["sh", "-c", line])
    assert rule_for(line) == rule


@given(st.lists(st.text(), max_size=5))
def test_what_is_quoted_for_echo_is_never_blocked(words: list[str]) -> None:
    assert rule_for(shlex.join(["echo", *words, *BLOCKED])) is None


# --- argv, and the working directory


@pytest.mark.parametrize("argv", CATASTROPHES.values())
def test_argv_is_held_against_the_same_rules(argv: list[str]) -> None:
    assert blocking_rule(lambda: GUARD.check_argv(argv)) is not None
    assert blocking_rule(lambda: GUARD.check_argv(["/usr/bin/sudo", *argv])) is not None
    assert blocking_rule(lambda: GUARD.check_argv(["/bin/sh", "-c", shlex.join(argv)])) is not None


def test_argv_has_no_shell_syntax() -> None:
    assert blocking_rule(lambda: GUARD.check_argv(["echo", ";", "rm", "-rf", "/"])) is None
    assert blocking_rule(lambda: GUARD.check_argv(["rm", "-rf", "$HOME"])) is None
    assert blocking_rule(lambda: GUARD.check_argv([])) is None


@pytest.mark.parametrize("line", ["rm -rf *", "rm -rf .", "chown -R app .", "find . -delete"])
def test_relative_targets_depend_on_where_the_command_runs(line: str) -> None:
    assert rule_for(line) is not None
    assert rule_for(line, cwd="/usr") is not None
    assert rule_for(line, cwd="/srv/app") is None
    assert rule_for(f"cd ../.. && {line}", cwd="/srv/app") is not None


# --- what a shell is given for its input


@pytest.mark.parametrize(
    "line", ["sh", "bash -s", "bash -", "sudo -u root bash", "sudo -i", "cat | sh", "cd /tmp; sh -x"]
)
def test_the_input_of_a_shell_is_read_as_a_script(line: str) -> None:
    def rule(stdin: str) -> str | None:
        return blocking_rule(lambda: GUARD.check_line(line, stdin=stdin))

    assert rule("echo start\nrm -rf /\n") == "remove-system"
    assert rule("echo 'rm -rf /'\nrm -rf /tmp/build\n") is None


@pytest.mark.parametrize(
    "line", ["cat", "tee notes.txt", "mail root", "sh deploy.sh < /dev/null", "cat notes | sh", "true"]
)
def test_the_input_of_another_program_is_text(line: str) -> None:
    assert blocking_rule(lambda: GUARD.check_line(line, stdin="echo rm -rf /\n")) is None


@pytest.mark.parametrize(
    "line", ["cat", "tee notes.txt", "mail root", "cat notes | sh", "echo true | sh", "sh -c true"]
)
def test_catastrophic_input_is_harmless_where_no_shell_reads_it(line: str) -> None:
    assert blocking_rule(lambda: GUARD.check_line(line, stdin="rm -rf /\n")) is None


def test_input_of_other_programs_that_act_on_it_is_read_too() -> None:
    assert blocking_rule(lambda: GUARD.check_line("xargs rm -rf", stdin="/tmp/x\n/etc\n")) == "remove-system"
    assert blocking_rule(lambda: GUARD.check_line("xargs rm -rf", stdin="/tmp/x\n/tmp/y\n")) is None
    assert blocking_rule(lambda: GUARD.check_line("sh -c 'xargs rm -rf'", stdin="/etc")) == "remove-system"


@pytest.mark.parametrize("argv", [["sh"], ["/bin/bash", "-s"], ["sudo", "bash"], ["sudo", "-i"]])
def test_the_input_of_a_shell_without_a_line_is_read(argv: list[str]) -> None:
    assert blocking_rule(lambda: GUARD.check_argv(argv, stdin="rm -rf /")) == "remove-system"
    assert blocking_rule(lambda: GUARD.check_argv(argv, stdin="rm -rf *", cwd="/etc")) == "remove-system"
    assert blocking_rule(lambda: GUARD.check_argv(argv, stdin="rm -rf /tmp/x")) is None
    assert blocking_rule(lambda: GUARD.check_argv(["cat"], stdin="rm -rf /")) is None


def test_input_is_not_mistaken_for_that_of_a_line_that_was_let_pass() -> None:
    assert rule_for("bash -s") is None
    assert blocking_rule(lambda: GUARD.check_line("bash -s", stdin="rm -rf /")) == "remove-system"


def test_megabytes_of_input_take_no_longer_than_the_longest_line() -> None:
    begin = time.process_time()
    GUARD.check_line("sh", stdin="echo hello\n" * 400_000)
    assert time.process_time() - begin < 2


# --- never fails, never takes long

SHELL_PIECES = ["'", '"', "\\", "$", "(", ")", "{", "}", "`", "|", "&", ";", "<", ">", "<<", "#", "\n", " ", "~", "*"]
SHELL_PIECES += [
    "$(",
    "${",
    "((",
    "rm",
    "-rf",
    "/",
    "a",
    "=",
    "EOF",
    "x=",
    "$x",
    "sh -c ",
    "eval ",
    "f()",
    "cd ",
    "for ",
]


@given(st.text() | st.lists(st.sampled_from(SHELL_PIECES), max_size=60).map("".join))
def test_any_text_is_blocked_or_allowed(text: str) -> None:
    rule_for(text)
    rule_for("rm -rf " + text)


@given(st.lists(st.text()))
def test_any_argv_is_blocked_or_allowed(argv: list[str]) -> None:
    blocking_rule(lambda: GUARD.check_argv(argv))


@given(st.lists(st.sampled_from(SHELL_PIECES), max_size=20).map("".join))
def test_what_follows_an_accident_does_not_hide_it(text: str) -> None:
    assert rule_for("rm -rf /\n" + text) == "remove-system"


ADVERSARIAL = [
    *SHELL_PIECES,
    *("'\"", "()", "$((", "<(", '"$(', '`"', "a(){ ", "{a,b} ", "/../", "[", "a;", "a|", "a\n", "> a;", "a&", "\\\n"),
    *(
        "<<a ",
        "<<a\n",
        "<<-'",
        "a=$a ",
        "a=b;",
        "cd a;",
        "for a in b;",
        "sudo ",
        "xargs ",
        "env ",
        "eval a;",
        "sh -c 'a';",
    ),
    *(
        "rm a;",
        "rm /*c;",
        "rm /?/* ",
        "echo a|sh;",
        "cat|",
        "f(){ f|f };",
        "case a in a) ",
        "python -c while ",
        "é",
        "\0",
        "<<a\n$(\na\n",
        "<<a\n`\na\n",
        "echo a|xargs -I{} a {}{};",
        "set -- a $@;",
        "sh -c '$@' a b;",
        "sudo -i;",
    ),
]


def lines_of(unit: str, length_chars: int) -> str:
    return (unit * (length_chars // len(unit) + 1))[:length_chars]


def calls_made_for(line: str) -> int:
    """Count every function call, of Python and of C, that a check makes."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        rule_for(line)
    finally:
        sys.setprofile(before)
    return calls


def cpu_time_s(line: str) -> float:
    """Measure without the collector, which has all that other tests have left to look through."""
    gc.disable()
    try:
        begin = time.process_time()
        rule_for(line)
        return time.process_time() - begin
    finally:
        gc.enable()


@pytest.mark.parametrize("unit", ADVERSARIAL)
@pytest.mark.parametrize("program", ["", "rm -rf "])
def test_work_grows_no_faster_than_the_text(program: str, unit: str) -> None:
    short, long = (calls_made_for(program + lines_of(unit, length)) for length in (2_000, 8_000))
    assert long <= 5 * short + 1_000
    assert long <= 70 * 8_000


@pytest.mark.parametrize(
    "unit", ["'", '"', "\\", "${", "${a:-", "(", "$(", "`", "<<a\n", "#", "{a,", "/../", "[", "rm a;"]
)
def test_the_longest_command_takes_no_more_than_its_share_of_time(unit: str) -> None:
    eighth, whole = (lines_of(unit, length) for length in (LONGEST_COMMAND_CHARS // 8, LONGEST_COMMAND_CHARS))
    # Eight times the length in eight times the time; work that grows with the square would take 64 times as long.
    assert cpu_time_s(whole) <= 24 * min(cpu_time_s(eighth) for _ in range(3)) + 0.1


@pytest.mark.parametrize(
    "line",
    [
        "a=xxxx;" + "a=$a$a;" * 9_000,
        "a='" + "x " * 15_000 + "';" + "$a " * 10_000,
        "x='" + "y;" * 1_000 + "';" + 'eval "$x";' * 6_000,
        "echo " + "a " * 20_000 + "|" + "xargs " * 4_000,
        "eval " * 13_000 + "a",
        "echo '" + "a" * 4_000 + "' | xargs -I{} rm " + "{}" * 30_000,
        "printf '" + "a\\n" * 10_000 + "' | xargs -I{} rm " + "{} " * 10_000,
        "sh -c '" + "$@ " * 10_000 + "' " + "a " * 10_000,
        "bash -ccccc" + "c" * 60_000 + "1",
        "cat <<E\n" + "$(cat <<F\n" * 5_000 + "F\nE\n" * 1_000,
        "rm -rf " + " ".join(f"/*{number}c" for number in range(9_000)),
        "rm -rf /{" + ",".join(map(str, range(12_000))) + "}",
        "".join(f"cat <<E{number}\n" for number in range(6_000)),
    ],
    ids=lambda line: line[:40],
)
def test_what_multiplies_itself_is_not_followed(line: str) -> None:
    assert calls_made_for(line) <= 25 * LONGEST_COMMAND_CHARS


def programs_with_patterns() -> list[str]:
    rules = tomllib.loads(BUILT_IN_RULES.read_text(encoding="utf-8"))["rule"]
    return sorted({rule["programs"][0].replace("*", "") for rule in rules if {"pattern", "script"} & set(rule)})


@pytest.mark.parametrize("program", programs_with_patterns())
def test_patterns_take_no_longer_than_their_share_of_time(program: str) -> None:
    for unit in ("-r ", "a ", "stop ", "remove ", "-exec sh -c ", "rm(  ", "while  ", "C: ", "-", "a/", "-u ", "/s "):
        eighth, whole = (f"{program} {lines_of(unit, length)}" for length in (3_000, 24_000))
        assert cpu_time_s(whole) <= 24 * min(cpu_time_s(eighth) for _ in range(2)) + 0.1


# --- files of rules


@pytest.fixture
def rules_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / f"rules-{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


WriteRules = Callable[[str], Path]


def test_a_file_adds_rules(rules_file: WriteRules) -> None:
    guard = Guard.from_files([
        rules_file('[[rule]]\nname = "drop"\nwhy = "no twin"\nprograms = ["dropdb"]\nwithout = ["--help"]'),
        rules_file('[[rule]]\nname = "drop-sql"\nwhy = "the same"\npattern = \'(?i)drop\\s+database\''),
    ])
    assert rule_for("sudo -u postgres dropdb main", guard=guard) == "drop"
    assert rule_for("dropdb --help", guard=guard) is None
    assert rule_for('psql -c "DROP  DATABASE main"', guard=guard) == "drop-sql"
    assert rule_for("rm -rf /", guard=guard) == "remove-system"
    assert rule_for("dropdb main") is None


def test_a_file_disables_rules_and_may_replace_them(rules_file: WriteRules) -> None:
    name = "make-file-system-on-disk"
    without = Guard.from_files([rules_file(f'disable = ["{name}"]')])
    assert rule_for("mkfs.ext4 /dev/vdb", guard=without) is None
    replacement = (
        f'[[rule]]\nname = "{name}"\nwhy = "only the first disk"\nprograms = ["mkfs.*"]\ntargets = ["/dev/vda*"]'
    )
    replaced = Guard.from_files([rules_file(f'disable = ["{name}"]\n{replacement}')])
    assert rule_for("mkfs.ext4 /dev/vdb", guard=replaced) is None
    assert rule_for("mkfs.ext4 /dev/vda1", guard=replaced) == name


def test_a_file_extends_lists_shells_and_runners(rules_file: WriteRules) -> None:
    guard = Guard.from_files([
        rules_file(
            '[lists]\npeople = ["/srv/a=b"]\n[shells]\nprograms = ["mysh"]\n'
            "[runners]\nasuser = { values = ['-u'], skip = 1, shell = true }"
        )
    ])
    assert rule_for("rm -r /srv/a=b", guard=guard) == "remove-homes"
    assert rule_for("mysh -c 'rm -rf /'", guard=guard) == "remove-system"
    assert rule_for("asuser -u x bob rm -rf /", guard=guard) == "remove-system"
    assert rule_for("asuser -vux bob rm -rf /", guard=guard) == "remove-system"
    assert rule_for("asuser -vu x bob rm -rf /", guard=guard) == "remove-system"
    assert rule_for("echo rm -rf / | asuser bob", guard=guard) == "remove-system"


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("[[rule]", "file", "line 1"),
        ("rules = []", "file", "unknown key 'rules'"),
        ("rule = 1", "file", "rule should be a list of tables"),
        ("disable = 'x'", "file", "disable should be a list of texts"),
        ("disable = ['typo']", "rule 'typo'", "no file before this one has a rule of that name"),
        ("[lists]\nx = '/srv'", "list 'x'", "a list of texts"),
        ("[shells]\nx = ['sh']", "shells", "unknown key 'x'"),
        ("[runners]\nx = 1", "runner 'x'", "should be a table"),
        ("[runners]\nx = { skip = -1 }", "runner 'x'", "skip should be a whole number"),
        ("[runners]\nx = { line = 'yes' }", "runner 'x'", "line should be true"),
        ("[[rule]]\nwhy = 'y'\nprograms = ['x']", "rule 1", "needs a name and a why"),
        ("[[rule]]\nname = 'n'\nprograms = ['x']", "rule 'n'", "needs a name and a why"),
        ("[[rule]]\nname = 'n'\nwhy = 'y'", "rule 'n'", "no condition"),
        ("[[rule]]\nname = 'n'\nwhy = 'y'\nprogram = ['x']", "rule 'n'", "unknown key 'program'"),
        ("[[rule]]\nname = 'n'\nwhy = 'y'\nprograms = []", "rule 'n'", "programs should be a list of texts"),
        ("[[rule]]\nname = 'n'\nwhy = 'y'\ntargets = ['@x']", "rule 'n'", "no list 'x'"),
        ("[[rule]]\nname = 'n'\nwhy = 'y'\ntargets = ['srv']", "rule 'n'", "should begin with /"),
        ("[[rule]]\nname = 'n'\nwhy = 'y'\npattern = '('", "rule 'n'", "unterminated"),
        (
            "[[rule]]\nname = 'remove-system'\nwhy = 'y'\npattern = 'x'",
            "rule 'remove-system'",
            "another rule has that name",
        ),
    ],
)
def test_a_broken_file_is_reported(rules_file: WriteRules, text: str, where: str, reason: str) -> None:
    path = rules_file(text)
    with pytest.raises(GuardRulesError, match=re.escape(reason)) as caught:
        Guard.from_files([path])
    assert (caught.value.file, caught.value.where) == (path, where)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(GuardRulesError, match=r"absent\.toml"):
        Guard.from_files([tmp_path / "absent.toml"])


def test_a_file_that_is_no_text_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(GuardRulesError, match="utf-8"):
        Guard.from_files([path])
